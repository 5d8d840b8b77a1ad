"""kill -9 in the middle of tools and programs: the same command goes on, repeats nothing that may not be repeated, and
leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from act_home import Home, cli, home
from act_upstream import Calls, Said, Upstream, teacher
from tokenprior.agents.toolbox import IN_DOUBT
from tokenprior.errors import ConfigError
from tokenprior.tools.sandbox import active_level

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked, held by pidfd and seen in /proc")

TARGET = Path(__file__).with_name("act_kill_target.py")
PATIENCE_S = 30.0  # for what has to come; only a broken test waits so long
LESSON = "When a sum is asked for, double it before you note it."
TASKS = [{"id": f"t{n}", "question": f"Double {n}.", "answer": str(2 * n)} for n in (11, 12, 13)]

# Writes a line, and then waits as long as there is a file `hold`.
TOOLS = """
import time
from pathlib import Path

HERE = Path(__file__).parent

def note(word: str) -> str:
    "Writes a word into the book."
    with (HERE / "book").open("a") as book:
        book.write(word + "\\\\n")
    while (HERE / "hold").exists():
        time.sleep(0.01)
    return "noted " + word
""".replace("\\\\n", "\\n")


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


class Process:
    """A command on its way. It is held by its pidfd, so that no signal meets another process."""

    def __init__(self, pid: int, ended: Callable[[], int]) -> None:
        self.pid, self._ended = pid, ended
        self._pidfd = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @property
    def has_ended(self) -> bool:
        return self._pidfd == -1

    def wait(self) -> int:
        code = self._ended()
        with self._lock:
            os.close(self._pidfd)
            self._pidfd = -1
        return code

    def descendants(self) -> dict[int, str]:
        """What it started, and what that started, each with the time of its start, by which a process is known."""
        parents: dict[int, tuple[int, str]] = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            if (seen := seen_at(int(entry))) is not None:
                parents[int(entry)] = seen
        found: dict[int, str] = {}
        new = {self.pid}
        while new:
            new = {pid for pid, (parent, _) in parents.items() if parent in new}
            found |= {pid: parents[pid][1] for pid in new}
        return found


def seen_at(pid: int) -> tuple[int, str] | None:
    """Parent and time of start of a living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), fields[19].decode())


def all_gone(started: dict[int, str]) -> bool:
    return not [pid for pid, at in started.items() if (seen := seen_at(pid)) is not None and seen[1] == at]


Start = Callable[..., Process]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    command = [sys.executable, str(TARGET)]
    said = tmp_path_factory.mktemp("said") / "said"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        ask, answers = parent.stdin, parent.stdout
        begun: list[Process] = []

        def end_all() -> None:
            """Of a test that failed; the others have ended theirs."""
            for process in begun:
                if not process.has_ended:
                    process.kill()
                    process.wait()

        def begin(*arguments: str | Path) -> Process:
            end_all()
            ask.write(json.dumps([str(said), *map(str, arguments)]) + "\n")
            ask.flush()
            begun.append(Process(int(answers.readline()), lambda: int(answers.readline())))
            return begun[-1]

        try:
            yield begin
        finally:
            end_all()
            ask.close()
            parent.wait(20)


def everybody(said: Said) -> str | Calls:
    """The policy keeps a number in the interpreter, doubles it there, notes it and says it."""
    if said.part != "policy":
        return teacher(LESSON)(said)
    number = int(re.findall(r"\d+", said.question)[0])
    match len(said.results):
        case 0:
            return [("python", {"code": f"x = {number}\nprint('kept')"})]
        case 1:
            return [("python", {"code": "print(x * 2)"})]
        case 2:
            return [("note", {"word": said.results[1].strip()})]
    wrong = said.chance(number) < 0.5 and LESSON not in said.system
    return "unknown" if wrong else said.results[1].strip()


def without_python(said: Said) -> str | Calls:
    """As above, with the note alone; what the note says of itself is in the answer."""
    if said.part != "policy":
        return teacher(LESSON)(said)
    number = int(re.findall(r"\d+", said.question)[0])
    if not said.results:
        return [("note", {"word": f"{number}-{said.body['seed'] % 1000}"})]
    return str(2 * number) if said.chance(number) < 0.6 else "unknown"


def written(folder: Path, server: Upstream, *tools: dict[str, Any], epochs: int = 1) -> Home:
    folder.mkdir(exist_ok=True)
    (folder / "tools.py").write_text(TOOLS)
    agent = {"kind": "tools", "model": server.model, "tools": list(tools)}
    return home(folder, tasks=TASKS[:2], agent=agent, learn={"epochs": epochs}, endpoint={"concurrency": 4})


def book(made: Home) -> list[str]:
    path = made.folder / "book"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def python() -> dict[str, Any]:
    try:
        active_level("auto")
    except ConfigError as error:
        pytest.skip(str(error))
    return {"kind": "python"}


def check_paid(server: Upstream, made: Home) -> None:
    """No call that was finished in the ledger was made again, and none was made that is not in it."""
    rows = made.rows("calls")
    assert {row["state"] for row in rows} <= {"done", "unknown"}
    finished = Counter((row["key"], row["request_hash"]) for row in rows if row["state"] == "done")
    assert set(finished.values()) == {1}
    doubts = sum(row["state"] == "unknown" for row in rows)
    assert len(server.said) <= len(rows)
    assert len(server.said) - len(finished) <= doubts


def test_killed_at_many_points_tools_that_may_be_repeated_end_in_the_same_library(
    tmp_path: Path, start: Start, python: dict[str, Any]
) -> None:
    note = {"kind": "function", "function": "tools.py:note", "repeatable": True}
    with Upstream(everybody, delay_s=0.004) as server:
        whole = written(tmp_path / "whole", server, python, note, epochs=2)
        assert start("learn", whole.file).wait() == 0
        assert [experience.text for experience in whole.library()] == [LESSON]
        server.said.clear()

        made = written(tmp_path / "killed", server, python, note, epochs=2)
        plan = [("policy", 3), ("contrast", 1), ("revise", 1), ("policy", 4)]
        for part, number in plan:
            left, reached, killed = number, threading.Event(), threading.Event()

            def on_call(
                said: Said, part: str = part, reached: threading.Event = reached, killed: threading.Event = killed
            ) -> None:
                nonlocal left
                left -= said.part == part
                if left == 0:
                    reached.set()
                    killed.wait(PATIENCE_S)  # nothing more is answered meanwhile

            server.on_call = on_call
            process = start("learn", made.file)
            assert reached.wait(PATIENCE_S), (part, number)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            killed.set()
        server.on_call = None
        # In the middle of a tool: the call is begun again, and the interpreter gets its variables back unseen.
        noted = len(book(made))
        (made.folder / "hold").touch()
        process = start("learn", made.file)
        until(lambda: len(book(made)) > noted, "a note")
        process.kill()
        assert process.wait() == -signal.SIGKILL
        (made.folder / "hold").unlink()
        assert start("learn", made.file).wait() == 0
        check_paid(server, made)
    assert made.library().dumps() == whole.library().dumps(), "byte for byte"
    for one, other in zip(made.rows("rollouts"), whole.rows("rollouts"), strict=True):
        assert one["rollout"]["messages"] == other["rollout"]["messages"]
        assert one["reward"] == other["reward"]
    assert set(book(made)) == set(book(whole))
    assert {row["state"] for row in made.rows("tool_calls")} == {"done"}


def test_a_side_effect_that_was_in_flight_is_not_made_again_and_everybody_is_told(tmp_path: Path, start: Start) -> None:
    with Upstream(without_python) as server:
        made = written(tmp_path, server, {"kind": "function", "function": "tools.py:note"}, epochs=2)
        for _ in range(2):
            before = len(book(made))
            (tmp_path / "hold").touch()
            process = start("learn", made.file)
            until(lambda before=before: len(book(made)) > before, "a note")
            process.kill()
            assert process.wait() == -signal.SIGKILL
            (tmp_path / "hold").unlink()
        assert start("learn", made.file).wait() == 0
        check_paid(server, made)
        told = [said for said in server.asked("policy") if IN_DOUBT in said.results]
    lines = book(made)
    assert len(lines) == len(set(lines)), "each once"
    doubtful = [
        row for row in made.rows("rollouts") if any(call.get("doubt") for call in row["rollout"]["metadata"]["tools"])
    ]
    # Of those that were cut off some had written their line, and some had not come so far.
    assert 8 - len(doubtful) <= len(lines) <= 8, "2 tasks, 2 attempts, 2 steps"
    assert doubtful
    assert len({said.identity for said in told}) == len(doubtful), "the model was told, once for each"
    for row in doubtful:
        answers = [message["content"] for message in row["rollout"]["messages"] if isinstance(message, dict)]
        assert IN_DOUBT in answers
        shown = cli("show", made.run().id, f"{row['task']}#{row['attempt']}", "--store", made.store)
        assert shown.code == 0
        assert "cut off by a crash and not made again" in shown.out
        assert IN_DOUBT in shown.out


def test_no_process_of_a_sandbox_survives(tmp_path: Path, start: Start, python: dict[str, Any]) -> None:
    code = (
        "import os, time\nfor n in range(4):\n    if not os.fork():\n        os.setsid()\n        n = time.sleep(600)"
    )
    code += "\ntime.sleep(600)"
    if active_level("auto") == "monty":
        pytest.skip("nothing can be started there")

    def policy(said: Said) -> str | Calls:
        return [("python", {"code": code})]

    with Upstream(policy) as server:
        made = written(tmp_path, server, python)
        process = start("learn", made.file, "--set", "learn.group_size=1")
        # Two attempts, each with a warden, an interpreter and four processes.
        until(lambda: len(process.descendants()) >= 12, "the code runs")
        started = process.descendants()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    until(lambda: all_gone(started), "the end of all of them")


def test_no_program_survives(tmp_path: Path, start: Start) -> None:
    program = (
        "import os, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "open(os.environ['TOKENPRIOR_DIR'] + '/mine', 'w').close()\n"
        "open('ready-' + str(os.getpid()), 'w').write(os.environ['TOKENPRIOR_DIR'])\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "agent.py").write_text(program)
    with Upstream(everybody) as server:
        agent = {"kind": "program", "model": f"{server.url}#*", "command": [sys.executable, "-I", "-S", "agent.py"]}
        made = home(tmp_path, tasks=TASKS, agent=agent, learner=server.model, learn={"group_size": 1})
        process = start("learn", made.file)
        until(lambda: len([file for file in tmp_path.glob("ready-*") if file.stat().st_size]) == 3, "the programs run")
        started = process.descendants()
        assert len(started) >= 6
        process.kill()
        assert process.wait() == -signal.SIGKILL
    until(lambda: all_gone(started), "the end of all of them")
    folders = [Path(file.read_text()) for file in tmp_path.glob("ready-*")]
    until(lambda: not any(folder.exists() for folder in folders), "their folders are gone")

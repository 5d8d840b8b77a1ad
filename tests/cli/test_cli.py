"""The command line in a process of its own: what it prints, how it ends, and that it calls nothing it should not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import world
from fake_openai import FakeOpenAI
from tokenprior.config import load_config
from tokenprior.exports import import_library
from tokenprior.learn import learn
from tokenprior.models.scripted import ScriptedModel
from tokenprior.session import read_tasks
from tokenprior.store import open_store

# fmt: off
COMMANDS = [
    "init", "learn", "evaluate", "compare", "audit", "runs", "show", "why", "diff", "history", "rollback", "pin",
    "edit", "export", "import", "report", "merge", "serve", "ui", "mcp", "doctor", "models", "store",
]
# fmt: on
LINE = "Small letters: When a word is to be repeated, write it in small letters."


def tokenprior(*arguments: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Run a command; its standard output and error."""
    # A dead proxy: whatever would leave this machine fails at once.
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tokenprior", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **nowhere, "COLUMNS": "200"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert ended.returncode == code, (ended.returncode, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr


def one_line(error: str) -> str:
    assert error.startswith("tokenprior: ")
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds a run that learned, in two steps and more, from the scripted world."""
    folder = tmp_path_factory.mktemp("home")

    async def fill() -> None:
        model = ScriptedModel(world.both)
        with open_store(folder / "tokenprior.db") as store:
            record = store.open_run("demo-1a2b", name="demo", kind="learn", config={})
            await learn(
                world.tasks(8),
                agent=world.agent(model),
                verifier=world.SmallLetters(),
                model=model,
                record=record,
                config=world.config(),
            )
            record.close("done")

    asyncio.run(fill())
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    rows = [{"prompt": f"Repeat: w{i}", "target": f"w{i}", "uid": f"u{i}"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_help_lists_every_command(tmp_path: Path) -> None:
    said, _ = tokenprior("--help", cwd=tmp_path)
    listed = [line.split()[0] for line in said.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == COMMANDS


@pytest.mark.parametrize(
    "command", ["init", "learn", "compare", "show", "serve", "ui", "models list", "models pull", "models serve"]
)
def test_a_command_explains_itself(tmp_path: Path, command: str) -> None:
    said, _ = tokenprior(*command.split(), "--help", cwd=tmp_path)
    assert "Usage: " in said


def test_version(tmp_path: Path) -> None:
    said, _ = tokenprior("--version", cwd=tmp_path)
    assert said == "tokenprior 0.1.0\n"


@pytest.mark.parametrize("command", ["learn", "evaluate", "compare", "doctor"])
def test_a_bad_config_is_one_line_and_exit_code_2(tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.yaml").write_text("tasks: {path: t.jsonl}\nagnet: {model: m}\n", encoding="utf-8")
    _, error = tokenprior(command, "bad.yaml", cwd=tmp_path, code=2)
    assert "bad.yaml: unknown key 'agnet': did you mean 'agent'?" in one_line(error)


@pytest.mark.parametrize("command", ["learn", "compare"])
def test_a_config_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path, command: str) -> None:
    _, error = tokenprior(command, "none.yaml", cwd=tmp_path, code=2)
    assert "none.yaml: cannot be read" in one_line(error)


def test_tasks_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    content = "tasks: {path: none.jsonl}\nagent: {model: embedded}\nverifier: exact\n"
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    for arguments in (["learn", "c.yaml", "--dry-run"], ["compare", "c.yaml"]):
        _, error = tokenprior(*arguments, cwd=tmp_path, code=2)
        assert "none.jsonl: cannot be read" in one_line(error)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for arguments in (["runs"], ["show", "x"], ["diff", "x", "y"], ["export", "x"]):
        _, error = tokenprior(*arguments, cwd=tmp_path, code=2)
        assert "no such store" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_runs_lists_the_runs(home: Path) -> None:
    said, _ = tokenprior("runs", cwd=home)
    (line,) = said.splitlines()
    assert line.split()[:3] == ["demo-1a2b", "learn", "done"]


def test_show_tells_what_was_learned_and_why(home: Path) -> None:
    said, _ = tokenprior("show", "demo", cwd=home)
    assert said.splitlines()[0] == f"[G0] {LINE}"
    assert "Add: all groups say so" in said
    operations, _ = tokenprior("show", "demo", "operations", "--step", "0", cwd=home)
    assert "step 0  done    Add" in operations
    assert "step 1" not in operations
    groups, _ = tokenprior("show", "demo-1a", "groups", cwd=home)
    assert "rewards " in groups
    task = groups.split()[2]
    rollout, _ = tokenprior("show", "demo", f"{task}#0", cwd=home)
    assert "-- system\nDo what is asked." in rollout
    assert "-- reward " in rollout


def test_show_of_what_is_not_there_names_what_is(home: Path) -> None:
    _, error = tokenprior("show", "none", cwd=home, code=2)
    assert "no run 'none'; there are: demo-1a2b" in one_line(error)
    _, error = tokenprior("show", "demo", "t99#0", cwd=home, code=2)
    assert "choose library, operations, groups or TASK#INDEX" in one_line(error)
    _, error = tokenprior("show", "demo", "--step", "99", cwd=home, code=2)
    assert "has no step 99" in one_line(error)


def test_export_and_import_go_round(home: Path, tmp_path: Path) -> None:
    version = {}
    for form, ending in (("json", "json"), ("flat", "json"), ("reference", "yaml")):
        file, back = tmp_path / f"{form}.{ending}", tmp_path / f"{form}-back.json"
        said, _ = tokenprior("export", "demo", "--form", form, "--to", file, cwd=home)
        assert said == ""
        said, _ = tokenprior("import", file, "--to", back, cwd=home)
        assert ": 1 experience, library " in said
        version[form] = import_library(back).version
    assert len(set(version.values())) == 1
    text, _ = tokenprior("export", "demo", cwd=home)
    assert text.endswith(f"[G0] {LINE}\n")
    chat, _ = tokenprior("export", "demo:0", "--form", "chat", cwd=home)
    assert json.loads(chat)[0]["role"] == "system"


def test_export_and_import_say_in_one_line_what_is_wrong(home: Path, tmp_path: Path) -> None:
    _, error = tokenprior("export", "demo", "--form", "xml", cwd=home, code=2)
    assert "no export form 'xml'" in one_line(error)
    for wrong in ("demo:x", "demo:"):
        _, error = tokenprior("export", wrong, cwd=home, code=2)
        assert "expected RUN:STEP" in one_line(error)
    _, error = tokenprior("export", "demo", "--to", tmp_path / "none" / "x.txt", cwd=home, code=1)
    assert "No such file or directory" in one_line(error)
    (tmp_path / "l.yaml").write_text("a: 1\n", encoding="utf-8")
    _, error = tokenprior("import", tmp_path / "l.yaml", "--to", tmp_path / "o.json", cwd=home, code=2)
    assert "l.yaml: no library: expected the reference's agent YAML" in one_line(error)


def test_diff_shows_what_changed_entry_by_entry(home: Path, tmp_path: Path) -> None:
    same, _ = tokenprior("diff", "demo:0", "demo", cwd=home)
    assert same == "the same library\n"
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"G0": "When a, do b.", "G1": "When c, do d."}), encoding="utf-8")
    changed, _ = tokenprior("diff", "demo", other, cwd=home)
    assert changed == f"[G0]\n  - {LINE}\n  + When a, do b.\n[G1]\n  + When c, do d.\n"


def test_init_writes_a_config_that_is_accepted_and_never_over_another(data: Path) -> None:
    folder = data.parent
    said, _ = tokenprior("init", "words.jsonl", cwd=folder)
    assert "10 tasks, 5 to practise on, 0 for the gate, 5 held out" in said
    assert "too few tasks for a gate" in said
    config = load_config(folder / "tokenprior.yaml")
    split = read_tasks(config)
    assert (len(split.practice), len(split.held_out)) == (5, 5)
    assert all(task.id.startswith("u") and task.answer for task in split.practice)
    before = (folder / "tokenprior.yaml").read_bytes()
    _, error = tokenprior("init", "words.jsonl", cwd=folder, code=2)
    assert "is there already" in one_line(error)
    assert (folder / "tokenprior.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["my data #1: words.jsonl", "naïve 数.jsonl", "yes"])
def test_init_copes_with_names_that_yaml_would_misread(data: Path, name: str) -> None:
    odd = data.parent / name
    rows = [{"Question": f"q: #{i}", "yes": 1, "Label": "x"} for i in range(2)]
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenprior("init", odd.name, "--to", "a b.yaml", cwd=data.parent)
    split = read_tasks(load_config(data.parent / "a b.yaml"))
    assert [task.answer for task in (*split.practice, *split.held_out)] == ["x", "x"]


def test_init_says_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"foo": 1}\n', encoding="utf-8")
    _, error = tokenprior("init", "d.jsonl", cwd=tmp_path, code=2)
    assert "looks like a question" in one_line(error)
    _, error = tokenprior("init", "none.jsonl", cwd=tmp_path, code=2)
    assert "none.jsonl: cannot be read" in one_line(error)


def test_a_dry_run_calls_nothing_and_makes_no_store(data: Path) -> None:
    folder = data.parent
    tokenprior("init", "words.jsonl", cwd=folder)
    said, error = tokenprior("learn", "tokenprior.yaml", "--dry-run", cwd=folder)
    assert "5 practice and 0 gate tasks: 40 rollouts, at most 0 more at the gate, and at most " in said
    assert said.endswith("nothing was called\n")
    assert error == ""
    assert sorted(path.name for path in folder.iterdir()) == ["tokenprior.yaml", "words.jsonl"]


def test_compare_wants_arms_as_name_and_file(data: Path) -> None:
    folder = data.parent
    tokenprior("init", "words.jsonl", cwd=folder)
    _, error = tokenprior("compare", "tokenprior.yaml", "--arm", "x", cwd=folder, code=2)
    assert "--arm 'x': expected NAME=FILE" in one_line(error)
    _, error = tokenprior("compare", "tokenprior.yaml", "--arm", "x=none.json", cwd=folder, code=2)
    assert "none.json: cannot be read" in one_line(error)


def test_a_wrong_command_or_option_is_no_traceback(tmp_path: Path) -> None:
    for arguments in (["lern"], ["learn"], ["runs", "--stroe", "x"], ["show", "x", "--step", "one"]):
        _, error = tokenprior(*arguments, cwd=tmp_path, code=2)
        assert "Usage: " in error


def test_a_reader_that_goes_away_is_no_traceback(home: Path) -> None:
    command = [sys.executable, "-m", "tokenprior", "export", "demo"]
    child = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    error = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) != 0
    assert error == b""


def test_output_that_the_terminal_cannot_show_is_no_traceback(home: Path, tmp_path: Path) -> None:
    library = tmp_path / "l.json"
    library.write_text(json.dumps({"G0": "When 数 → naïve, do it."}), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "tokenprior", "export", str(library)],
        cwd=home,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert b"When " in ended.stdout


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(tmp_path: Path) -> None:
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(12)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with FakeOpenAI(delay_s=0.2) as server:
        config = {
            "tasks": {"path": "tasks.jsonl"},
            "agent": {"model": server.model, "max_tokens": 50},
            "verifier": "exact",
            "learn": {"epochs": 1, "group_size": 4, "gate": "none"},
            "endpoint": {"concurrency": 2},
        }
        (tmp_path / "run.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "tokenprior", "learn", "run.yaml"]
        # A suite that was started in the background has Ctrl-C ignored, and passes that on.
        heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        started = [sys.executable, "-c", f"{heard}runpy.run_module('tokenprior', run_name='__main__', alter_sys=True)"]
        child = subprocess.Popen([*started, *command[3:]], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while server.calls < 6:
            assert child.poll() is None, "it ended before it was interrupted"
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130, said
        assert said.splitlines()[-1] == "tokenprior: stopped; nothing is lost, the same command goes on"
        assert "Traceback" not in said
        server.delay_s = 0.0
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert made.returncode == 0, made.stderr
        assert server.calls <= 12 * 4 + 12 + 1 + 2, "nothing is paid twice but what was in flight"

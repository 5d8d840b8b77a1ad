"""An agent whose code runs in the sandbox, through the config: state between calls, harm contained, limits counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from act_home import Home, cli, home
from act_upstream import Calls, Said, Upstream, teacher
from tokenprior.errors import ConfigError
from tokenprior.tools.sandbox import active_level

LESSON = "When digits have to be summed, let the interpreter do the whole sum."
TASKS = [{"id": f"t{n}", "question": f"Digits of {n}?", "answer": str(sum(map(int, str(n))))} for n in (1234, 567, 89)]


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    try:
        level = active_level("auto")
    except ConfigError as error:
        pytest.skip(str(error))
    if level == "monty":
        pytest.skip("a subset of Python: no processes, no files")


def written(folder: Path, server: Upstream, *, python: dict[str, Any] | None = None, **agent: Any) -> Home:
    tools = [{"kind": "python"} | (python or {})]
    settings = {"kind": "tools", "model": server.model, "calls": "fenced", "tools": tools, "instructions": "Count."}
    return home(folder, tasks=TASKS, agent=settings | agent)


def heard(said: Said) -> list[str]:
    """What the blocks gave."""
    found = (re.match(r"Output of python:\n```\n(.*)\n```", m["content"], re.DOTALL) for m in said.messages[2:])
    return [one[1] for one in found if one]


def texts(row: dict[str, Any]) -> list[str]:
    return [message[1] if isinstance(message, list) else message["content"] for message in row["rollout"]["messages"]]


def test_variables_stay_from_block_to_block_and_attempts_do_not_share_them(tmp_path: Path) -> None:
    def policy(said: Said) -> str | Calls:
        if said.part != "policy":
            return teacher(LESSON)(said)
        number = int(re.findall(r"\d+", said.question)[0])
        match len(heard(said)):
            case 0:
                # What comes behind the block is made up, and cut off.
                return f"Let me see.\n```python\nkept = globals().get('x')\nx = {number}\nprint(kept)\n```\nIt gave 99."
            case 1:
                return "```python\ntotal = sum(int(d) for d in str(x))\nprint('total', total)\n```"
            case 2:
                return "```python\ntotal\n```"
        right = said.chance(number) < 0.5 or LESSON in said.system
        return heard(said)[2] if right else "I do not know."

    with Upstream(policy) as server:
        made = written(tmp_path, server)
        ended = cli("learn", made.file)
        assert ended.code == 0, ended.err
        first = server.asked("policy")[0]
        assert "tools" not in first.body
        assert "write a ```python block with the code" in first.system
        assert first.system.startswith("Count.")
    rows = made.rows("rollouts")
    assert len(rows) == 6
    for row in rows:
        said = texts(row)
        assert said[2].endswith("print(kept)\n```")
        assert said[3].split() == ["Output", "of", "python:", "```", "None", "```"], (
            "no attempt sees the variables of another"
        )
        answer = next(task["answer"] for task in TASKS if task["id"] == row["task"])
        assert said[5].splitlines()[2] == f"total {answer}"
        assert row["rollout"]["metadata"]["turns"] == 4
    assert {row["reward"]["value"] for row in rows} == {0.0, 1.0}
    assert [experience.text for experience in made.library()] == [LESSON]


HOSTILE = {
    "a fork bomb": "import os\nwhile True:\n    os.fork()",
    "much output": "while True:\n    print('x' * 1_000_000)",
    "an endless loop": "while True:\n    pass",
    "much memory": "x = bytearray(2_000_000_000)\nx[::4096] = b'1' * len(x[::4096])",
}


def test_hostile_programs_cost_their_interpreter_and_no_more(tmp_path: Path) -> None:
    tasks = [{"id": name.replace(" ", "-"), "question": code, "answer": "alive"} for name, code in HOSTILE.items()]

    def policy(said: Said) -> str | Calls:
        if said.part != "policy":
            return teacher(LESSON)(said)
        match len(heard(said)):
            case 0:
                return f"```python\n{said.question}\n```"
            case 1:
                return "```python\nprint('ali' + 've')\n```"
        return "alive" if "alive" in heard(said)[1] else "dead"

    with Upstream(policy) as server:
        python = {"timeout_s": 20, "cpu_s": 2, "memory_mb": 128, "output_chars": 500}
        made = written(tmp_path, server, python=python)
        (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
        ended = cli("learn", made.file, "--set", "learn.group_size=1", "--set", "learn.learn_from=[all_fail, mixed]")
        assert ended.code == 0, ended.err
    rows = {row["task"]: row for row in made.rows("rollouts")}
    assert len(rows) == len(HOSTILE)
    for task, row in rows.items():
        said = texts(row)
        assert len(said[3]) < 1500, "what came out of it is bounded"
        # What children of the bomb complain of may stand around it, and take its place where the middle is cut.
        assert "alive\n" in said[5] or task == "a-fork-bomb", f"{task}: there is an interpreter"
        assert row["rollout"]["failure"] is None
        assert row["reward"]["value"] is not None
    assert "MiB" in texts(rows["much-output"])[3]
    endless = texts(rows["an-endless-loop"])[3]
    assert "stopped" in endless or "longer than" in endless
    assert "MemoryError" in texts(rows["much-memory"])[3] or "stopped" in texts(rows["much-memory"])[3]
    (step,) = made.rows("steps")
    assert step["report"]["scored"] == len(HOSTILE)
    assert step["report"]["failed"] == {}
    assert made.run().state == "done"


def test_attempts_that_never_answer_end_at_their_limit_and_are_counted(tmp_path: Path) -> None:
    def policy(said: Said) -> str | Calls:
        if said.part != "policy":
            return teacher(LESSON)(said)
        if said.question == TASKS[0]["question"]:
            return "I go on.\n```python\nprint(1)\n```"
        return str(next(task["answer"] for task in TASKS if task["question"] == said.question))

    with Upstream(policy) as server:
        made = written(tmp_path, server, limits={"turns": 3})
        split = ["--set", "tasks.held_out=tasks.jsonl", "--set", "tasks.path=other.jsonl"]
        (tmp_path / "other.jsonl").write_text(json.dumps({"question": "another", "answer": "x"}))
        ended = cli("learn", made.file)
        assert ended.code == 0, ended.err
        assert len(server.asked("policy")) == 2 * (3 + 1 + 1)
        compared = cli("compare", made.file, *split, "--arm", f"a={made.run().id}", "--json", tmp_path / "c.json")
        assert compared.code == 0, compared.err
    stops = {(row["task"], row["rollout"]["stop"]) for row in made.rows("rollouts")}
    assert stops == {("t1234", "limit"), ("t567", "done"), ("t89", "done")}
    limited = next(row for row in made.rows("rollouts") if row["task"] == "t1234")
    assert limited["rollout"]["metadata"]["turns"] == 3
    assert limited["rollout"]["output"].startswith("I go on.")
    assert limited["reward"]["value"] == 0.0, "what it has is judged"
    arms = json.loads((tmp_path / "c.json").read_text())["arms"]
    assert [arm["cut_off"] for arm in arms] == [1, 1]
    assert [arm["failed"] for arm in arms] == [{}, {}]

"""The command line with agents that do more than chat: what it says before anything is spent, and of what is wrong."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from act_home import Home, cli, home
from act_upstream import Calls, Said, Upstream, teacher
from tokenprior.tools.sandbox import LevelReport, active_level, probe

SERVER = str(Path(__file__).with_name("act_mcp.py"))
LESSON = "When several numbers are given, add each of them before you read the total."
TASKS = [
    {"id": "t1", "question": "Add 2 and 3.", "answer": "5"},
    {"id": "t2", "question": "Add 4 and 5.", "answer": "9"},
]
AGENTS: dict[str, dict[str, Any]] = {
    "chat": {"kind": "chat"},
    "tools": {"kind": "tools", "tools": [{"kind": "function", "function": "mine.py:tool"}]},
    "function": {"kind": "function", "function": "mine.py:agent"},
    "program": {"kind": "program", "command": [sys.executable, "mine.py"]},
}


def everybody(said: Said) -> str | Calls:
    """The policy adds the numbers of the question by the counter; without the lesson now and then the first alone."""
    if said.part != "policy":
        return teacher(LESSON)(said)
    numbers = [int(number) for number in re.findall(r"\d+", said.question)]
    if not said.body.get("tools"):
        return "ok"
    if not said.results:
        wanted = numbers if LESSON in said.system or said.chance(numbers) < 0.5 else numbers[:1]
        return [("add", {"number": number}) for number in wanted]
    if not said.results[-1].startswith("total"):
        return [("total", {})]
    return said.results[-1].split()[1]


def written(folder: Path, agent: dict[str, Any], url: str = "http://127.0.0.1:9/v1", **settings: Any) -> Home:
    (folder / "mine.py").write_text(
        "def agent(task, prior):\n    return 'ok'\n\n\ndef tool(word: str) -> str:\n    'Says.'\n    return word\n"
    )
    return home(folder, tasks=TASKS, agent={"model": f"{url}#m"} | agent, **settings)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_dry_run_says_what_it_may_take_and_calls_nothing(tmp_path: Path, kind: str) -> None:
    made = written(tmp_path, AGENTS[kind])
    ended = cli("learn", made.file, "--dry-run")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("2 practice and 0 gate tasks: 4 rollouts, at most 0 more at the gate")
    assert "nothing was called" in ended.out
    assert not made.store.exists()
    more = cli("learn", made.file, "--dry-run", *([] if kind == "chat" else ["--set", "agent.limits.turns=40"]))
    assert (more.out == ended.out) == (kind == "chat"), "turns are counted"


@pytest.mark.parametrize("kind", AGENTS)
def test_the_doctor_says_what_an_agent_has(tmp_path: Path, kind: str) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, AGENTS[kind], server.url)
        ended = cli("doctor", made.file)
        assert ended.code == 0, ended.out + ended.err
        assert f"model {server.url}#m: answers" in ended.out
        assert len(server.said) == 1
    program = f"program: {sys.executable}"
    said = {"chat": "", "tools": "tools: tool", "function": "function: mine.py:agent", "program": program}
    assert said[kind] in ended.out
    for level in probe():
        assert f"code sandbox {level.name}: " in ended.out


def test_the_doctor_says_in_which_sandbox_code_runs(tmp_path: Path) -> None:
    if not any(level.usable for level in probe()):
        pytest.skip("no sandbox works here")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.md").write_text("A page.")
    with Upstream(everybody) as server:
        made = written(
            tmp_path, {"kind": "tools", "tools": ["python", {"kind": "corpus", "path": "pages"}]}, server.url
        )
        ended = cli("doctor", made.file)
    assert ended.code == 0, ended.err
    assert "tools: python, search, read_page" in ended.out
    assert f"code runs in the sandbox {active_level('auto')}" in ended.out


def test_the_doctor_does_not_ask_for_a_model_that_only_the_program_knows(tmp_path: Path) -> None:
    with Upstream(everybody) as server:
        made = written(tmp_path, AGENTS["program"] | {"model": f"{server.url}#*"}, learner=server.model)
        ended = cli("doctor", made.file)
        assert ended.code == 0, ended.out
        assert f"model {server.url}#*: not asked" in ended.out
        assert [said.body["model"] for said in server.said] == ["fake"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"kind": "pyhton"}]}, "agent.tools: kind is 'pyhton', expected one of python, .*did you mean 'python'"),
    ({"tools": [{"path": "."}]}, "agent.tools: kind is missing"),
    ({"tools": [{"kind": "python", "timeout": 3}]}, "tool python: unknown option 'timeout' .*did you mean 'timeout_s'"),
    ({"tools": [{"kind": "python", "level": "docker"}]}, "tool python: level is 'docker'"),
    ({"tools": [{"kind": "python", "memory_mb": -1}]}, "memory_mb is -1, expected more than 0"),
    ({"tools": [{"kind": "read_page", "allow": ["http://x/y"]}]}, "allow"),
    ({"tools": [{"kind": "search", "engine": "tavily"}]}, "TAVILY_API_KEY"),
    ({"tools": [{"kind": "search", "engine": "gogle"}]}, "engine is 'gogle'"),
    ({"tools": [{"kind": "corpus", "path": "nowhere"}]}, "nowhere"),
    (
        {"tools": [{"kind": "mcp", "command": ["no-such-program-anywhere"]}]},
        "tool mcp: no-such.*no MCP server",
    ),
    ({"tools": [{"kind": "mcp", "command": ["x"], "pass_env": ["NOT_THERE"]}]}, "variable NOT_THERE is not set"),
    ({"tools": [{"kind": "mcp"}]}, "expected one of `command`"),
    ({"tools": [{"kind": "function", "function": "none.py:f"}]}, "no file .*none.py"),
    ({"tools": [{"kind": "function", "function": "mine.py:f"}]}, r"no 'f' in mine.py; it has \['agent', 'tool'\]"),
    ({"tools": [{"kind": "function", "function": "mine.py:tool"}] * 2}, "two tools are called 'tool'"),
    ({"tools": [{"kind": "sql", "database": "none.sqlite"}]}, "none.sqlite"),
    ({"tools": "python"}, "agent.tools"),
    ({"kind": "tools", "tools": [], "limits": {"turn": 3}}, "agent.*limits.*turn"),
    ({"kind": "tols", "tools": []}, "agent.*kind"),
    ({"kind": "function", "function": "mine.py:none"}, "no 'none' in mine.py"),
    ({"kind": "function", "function": "mine.py:tool"}, "cannot be called as"),
    ({"kind": "program", "command": ["no-such-program-anywhere"]}, "'no-such-program-anywhere' cannot be run"),
    ({"kind": "program", "command": []}, "agent.command.*at least 1"),
    ({"kind": "tools", "tools": [], "template": "no place"}, "must contain {question}"),
]


@pytest.mark.parametrize(("agent", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_wrong_settings_are_one_line_and_nothing_is_called(
    tmp_path: Path, agent: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    with Upstream(everybody) as server:
        made = written(tmp_path, agent, server.url)
        ended = cli("learn", made.file)
        assert ended.code == 2, ended.err
        said = [line for line in ended.err.splitlines() if line.startswith("tokenprior: ")]
        assert len(said) == 1
        assert re.search(words, said[0]), said[0]
        assert "Traceback" not in ended.err
        assert not server.said
        checked = cli("doctor", made.file)
        assert checked.code == 2, checked.out
        assert not server.said


def _too_old(level: str) -> LevelReport:
    return LevelReport(name=level, usable=False, why="too old a kernel")


def test_a_sandbox_that_does_not_work_here_is_said_before_anything_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprior.tools.sandbox._report", _too_old)
    with Upstream(everybody) as server:
        for level, words in (("bwrap", "level bwrap does not work here: too old"), ("auto", "no sandbox works here")):
            made = written(tmp_path, {"kind": "tools", "tools": [{"kind": "python", "level": level}]}, server.url)
            ended = cli("learn", made.file)
            assert ended.code == 2
            assert words in ended.err
        assert not server.said


def test_an_mcp_server_beside_the_config_counts_for_each_attempt_alone(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(Path(SERVER).read_text())
    mcp = {"kind": "mcp", "command": [sys.executable, "server.py", "."], "only": ["add", "total"]}
    with Upstream(everybody) as server:
        made = written(tmp_path, {"kind": "tools", "tools": [mcp]}, server.url)
        ended = cli("learn", made.file)
        assert ended.code == 0, ended.err
        offered = server.asked("policy")[0].body["tools"]
        assert [tool["function"]["name"] for tool in offered] == ["add", "total"]
    rows = made.rows("rollouts")
    assert len(rows) == 4
    for row in rows:
        place = f"rollout/0/{row['task']}/{row['attempt']}/"
        calls = [call for call in made.rows("tool_calls") if call["tool"] == "add" and call["place"].startswith(place)]
        added = [json.loads(call["arguments"])["number"] for call in calls]
        assert added
        assert row["rollout"]["output"] == str(sum(added)), "no attempt sees what another added"
    assert len(list(tmp_path.glob("pid-*"))) == 5, "one to list, one for each attempt"

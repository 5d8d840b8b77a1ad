"""Tools of an MCP server: a real one, in a process of its own on standard input and output."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprior.agents.toolbox import Toolbox
from tokenprior.errors import ConfigError
from tokenprior.rollout import ToolCall
from tokenprior.task import Task
from tokenprior.tools.base import ToolFailed, ToolResult
from tokenprior.tools.mcp import McpServer, McpTool

SERVER = str(Path(__file__).parents[1] / "act_mcp.py")
TASK = Task(id="t", question="q")
FAILED = "FAILED "


def at(home: Path, **changes: Any) -> McpServer:
    return McpServer(**{"command": (sys.executable, SERVER, str(home)), **changes})


def started(folder: Path) -> list[int]:
    """Process ids of the servers that were started for a test."""
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def living(folder: Path) -> list[int]:
    return [pid for pid in started(folder) if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


class NoLedger:
    """Remembers nothing."""

    async def tool_call_begun(self, place: str, made_of: str, tool: str, arguments: str) -> None:
        return None

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        return None


async def in_attempt(tools: tuple[McpTool, ...], *calls: tuple[str, str]) -> list[str]:
    """What calls give that are made one after another in one attempt."""
    given = []
    async with Toolbox(tools, TASK, NoLedger()) as box:  # type: ignore[arg-type]  # a ledger that never knows anything
        for number, (name, arguments) in enumerate(calls):
            call = ToolCall(id=str(number), name=name, arguments=arguments)
            result = await box.call(call, place=str(number), made_of="x", timeout_s=30.0)
            given.append((FAILED if result.failed else "") + result.text)
    return given


def test_tools_are_listed_called_and_told_in_bounded_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "passed on")
    monkeypatch.setenv("OTHER", "kept here")

    async def run() -> None:
        server = at(tmp_path, pass_env=("MINE",), output_chars=100)
        tools = {tool.spec.name: tool for tool in await server.tools()}
        assert set(tools) == {"add", "total", "fails", "much", "picture", "variable"}
        assert tools["add"].spec.description == "Adds to the counter."
        assert tools["add"].spec.parameters["required"] == ["number"]
        assert not tools["add"].spec.repeatable, "what says nothing of itself may change something"
        assert tools["total"].spec.repeatable, "read-only"
        assert tools["fails"].spec.repeatable, "idempotent"
        assert len({tool.fingerprint for tool in tools.values()}) == 6
        async with server.connected() as client:

            async def call(tool: str, **arguments: object) -> str:
                return await tools[tool].on(client).call(arguments)

            assert await call("add", number=2) == "added 2"
            assert await call("total") == "total 2"
            long = await call("much", letters=5_000)
            assert len(long) < 200
            assert "characters left out" in long
            assert long.endswith("end")
            assert await call("picture") == "here:\n[image that cannot be shown]"
            assert await call("variable", name="MINE") == "passed on"
            assert await call("variable", name="OTHER") == "not set"
            with pytest.raises(ToolFailed, match="it failed: so"):
                await call("fails", why="so")
            with pytest.raises(ToolFailed):
                await call("add", number="no number")
            assert await call("total") == "total 2", "a failed call ends nothing"

    asyncio.run(run())
    assert not living(tmp_path)


def test_tools_of_a_server_share_the_session_of_an_attempt_and_attempts_share_none(tmp_path: Path) -> None:
    async def run() -> None:
        tools = await at(tmp_path, only=("total", "add"), prefix="c_", folder=tmp_path).tools()
        assert [tool.spec.name for tool in tools] == ["c_total", "c_add"]
        one, other = await asyncio.gather(
            in_attempt(tools, ("c_add", '{"number": 2}'), ("c_add", '{"number": 3}'), ("c_total", "{}")),
            in_attempt(tools, ("c_total", "{}"), ("c_add", '{"number": 10}'), ("c_total", "{}")),
        )
        assert one == ["added 2", "added 3", "total 5"]
        assert other == ["total 0", "added 10", "total 10"]
        assert len(started(tmp_path)) == 3, "one to list, one for each attempt"
        assert not living(tmp_path), "each ended with its attempt"
        async with tools[0].session(TASK) as alone:
            assert await alone.call({}) == "total 0"
            assert len(living(tmp_path)) == 1

    asyncio.run(run())
    assert not living(tmp_path)


def test_an_attempt_that_calls_no_tool_starts_no_server(tmp_path: Path) -> None:
    async def run() -> None:
        tools = await at(tmp_path).tools()
        assert await in_attempt(tools) == []
        assert await in_attempt(tools, ("sing", "{}"), ("add", '{"number": "x"}')) == [
            f"{FAILED}There is no tool 'sing'; there are: {', '.join(tool.spec.name for tool in tools)}.",
            f"{FAILED}The arguments do not fit at number: 'x' is not of type 'integer'.",
        ]

    asyncio.run(run())
    assert len(started(tmp_path)) == 1, "to list, and no more"


def test_a_tool_that_the_server_does_not_have_is_said_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tool 'sum'; it has: add, total, fails, much, picture, variable"):
        asyncio.run(at(tmp_path, only=("add", "sum")).tools())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: McpServer(), "expected one of `command` .* and `url`"),
        (lambda: McpServer(command=("a",), url="http://127.0.0.1:1/mcp"), "expected one of `command` .* and `url`"),
        (lambda: McpServer(command=("a",), pass_env=("NOT_THERE",)), "variable NOT_THERE is not set"),
        (lambda: McpServer(url="http://127.0.0.1:1", key_variable="NOT_THERE"), "variable NOT_THERE is not set"),
    ],
)
def test_settings_that_cannot_be_right_are_said_at_once(make: Callable[[], McpServer], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "settings",
    [
        {"command": ("no-such-program-anywhere",)},
        {"command": (sys.executable, "-c", "print('I speak no MCP')")},
        {"url": "http://127.0.0.1:9/mcp"},
        {"url": "localhost:9"},
    ],
    ids=["no program", "no server", "nobody there", "no address"],
)
def test_a_server_that_does_not_answer_is_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no MCP server answers") as caught:
        asyncio.run(McpServer(**settings, timeout_s=5.0).tools())
    assert "\n" not in str(caught.value)

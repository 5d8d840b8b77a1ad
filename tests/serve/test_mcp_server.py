"""The MCP server as a coding agent meets it: a child process on standard input and output, and fastmcp's client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastmcp.client.transports import StdioTransport

import world
from fake_openai import FakeOpenAI
from mcp_client import connected
from tokenprior.config import load_config
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.serve.libraries import Libraries, ServedLibrary
from tokenprior.serve.mcp.desk import Desk
from tokenprior.serve.mcp.server import make_server
from tokenprior.store import open_store

pytestmark = pytest.mark.anyio

LESSON = "When a word is to be repeated, write it in small letters."
HEARD = ("ResourceListChangedNotification", "PromptListChangedNotification")


def started(folder: Path, *arguments: str) -> StdioTransport:
    """A server in a process of its own, which leaves its id in the folder."""
    command = f"echo $$ > pid; exec {sys.executable} -m tokenprior mcp {' '.join(arguments)}"
    return StdioTransport(
        "sh", ["-c", command], cwd=str(folder), env={**os.environ}, keep_alive=False, log_file=folder / "log"
    )


def written(folder: Path, model: str, **changes: Any) -> None:
    """A config to learn with."""
    config = {
        "agent": {"model": model, "instructions": "Do what is asked.", "max_tokens": 50},
        "logs": {"path": "tokenprior.db", "form": "served"},
        "verifier": "recorded",
        "learn": {"gate": "none", "compact": True},
    }
    (folder / "agent.yaml").write_text(yaml.safe_dump({**config, **changes}))


async def test_an_agent_reads_records_learns_and_reads_what_it_learned(tmp_path: Path) -> None:
    with FakeOpenAI() as server:
        written(tmp_path, server.model)
        async with connected(started(tmp_path, "words=lessons.json", "--config", "agent.yaml")) as agent:
            client = agent.client
            assert {tool.name for tool in await client.list_tools()} == {"read_lessons", "record_attempt", "learn"}
            assert [r.uri for r in await client.list_resources()] == ["tokenprior://words", "tokenprior://words/json"]
            (template,) = await client.list_resource_templates()
            assert template.uri_template == "tokenprior://{name}/{identity}"
            (prompt,) = await client.list_prompts()
            assert (prompt.name, [argument.name for argument in prompt.arguments or []]) == ("words", ["task"])
            assert (await agent.call("read_lessons", task="Repeat: amber0"))["lessons"] == []
            assert "call record_attempt first" in (await agent.call("learn"))["said"]

            first = await agent.record("amber", "AMBER0", 0, question="Repeat: amber0")
            assert (first["attempts"], first["ready"]) == (1, 0)
            assert "record one with another reward, or say in `feedback`" in first["said"]
            second = await agent.record("amber", "amber0", 1, feedback="as wanted")
            assert (second["task"], second["attempts"], second["ready"]) == ("repeat amber", 2, 1)
            assert second["said"] == "2 attempts at this task: enough to learn from."
            third = await agent.record("birch", "BIRCH1", 0, question="Repeat: birch1", feedback="wanted birch1")
            assert (third["attempts"], third["ready"]) == (1, 2), "a failure with words teaches on its own"
            assert server.calls == 0

            learned = await agent.call("learn")
            assert (learned["tasks"], learned["attempts"], learned["dropped"]) == (2, 3, {})
            (operation,) = learned["operations"]
            assert (operation["operation"], operation["outcome"]) == ("Add", "done")
            assert operation["lesson"].endswith(LESSON)
            assert learned["proof"].startswith("Not proven")
            assert learned["before"] != learned["version"]
            assert agent.progress[-1][1], "in words"
            assert set(HEARD) <= set(agent.heard)
            assert dict(server.phases) == {"contrast": 2, "revise": 1}

            read = await agent.call("read_lessons", task="Repeat: cedar in small letters")
            assert read["version"] == learned["version"]
            assert [(one["id"], one["effect"]) for one in read["lessons"]] == [("G0", "effect not measured")]
            assert read["lessons"][0]["lesson"].endswith(LESSON)
            lesson = await agent.read("tokenprior://words/G0")
            assert f"written by {learned['run']}, step 0: Add" in lesson
            for kept, reward in ((first, 0), (second, 1), (third, 0)):
                assert f"reward {reward}, recorded as {kept['id']}" in lesson
            assert LESSON in await agent.read("tokenprior://words")
            assert json.loads(await agent.read("tokenprior://words/json"))["version"] == learned["version"]
            shown = await client.get_prompt("words")
            assert LESSON in shown.messages[0].content.text  # type: ignore[union-attr]

            again = await agent.call("learn")
            assert again["version"] == learned["version"]
            assert "Nothing was recorded since the last step" in again["said"]
            assert server.calls == 3
    library = Library.from_json(json.loads((tmp_path / "lessons.json").read_text()))
    assert [one.text for one in library] == [LESSON], "the file holds what is served"
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_a_server_killed_while_it_learns_goes_on_with_the_same_call(tmp_path: Path) -> None:
    def kill(request: Request) -> None:
        if request.key.phase == "revise":
            server.on_call = None
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    with FakeOpenAI() as server:
        written(tmp_path, server.model)
        async with connected(started(tmp_path, "words=lessons.json", "--config", "agent.yaml")) as agent:
            for word in ("amber0", "birch1", "cedar2"):
                await agent.record(word, word.upper(), 0, question=f"Repeat: {word}")
                await agent.record(word, word, 1)
            server.on_call = kill
            with pytest.raises(Exception, match=r"."):
                await agent.call("learn")
        assert dict(server.phases) == {"contrast": 3, "revise": 1}
        assert not len(Library.from_json(json.loads((tmp_path / "lessons.json").read_text())))
        with open_store(tmp_path / "tokenprior.db") as store:
            (unfinished,) = store.runs()
            served = ServedLibrary("words", str(tmp_path / "lessons.json"))
            desk = Desk(Libraries([served]), store, load_config(tmp_path / "agent.yaml"))
            async with connected(make_server(desk)) as agent:
                learned = await agent.call("learn")
                assert (learned["run"], learned["tasks"]) == (unfinished.id, 3)
                assert (await agent.call("read_lessons", task="repeat a word"))["lessons"][0]["id"] == "G0"
        assert dict(server.phases) == {"contrast": 3, "revise": 2}, "only the call in flight was made again"


def test_the_example_of_a_coding_agent_gets_better(tmp_path: Path) -> None:
    wanted = "When a branch is to be named, join its words in small letters with hyphens."
    program = Path(__file__).parents[2] / "examples/mcp/coding_agent.py"
    with FakeOpenAI(lambda request: world.learner(request).replace(LESSON, wanted)) as server:
        options = ["--store", "s.db", "--set", f"learner={server.model}", "--set", "budget.usd=null"]
        made = subprocess.run(
            [sys.executable, str(program), *options], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert made.returncode == 0, made.stderr
    said = made.stdout.splitlines()
    assert said[0] == "first attempts right before: 0.00"
    assert wanted in made.stdout
    assert said[-1] == "first attempts right after: 1.00"

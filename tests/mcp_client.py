"""An agent that talks to the MCP server through fastmcp's client, in a process of its own or in this one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastmcp import Client


class Agent:
    """A client of the server, with what it was told besides answers."""

    def __init__(self, client: Client[Any]) -> None:
        self.client = client
        self.progress: list[tuple[float, str | None]] = []
        self.heard: list[str] = []

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        made = await self.client.call_tool(tool, arguments)
        assert made.structured_content is not None
        assert json.loads(made.content[0].text) == made.structured_content  # type: ignore[union-attr]
        return made.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The one line in which a call that goes wrong says why."""
        made = await self.client.call_tool(tool, arguments, raise_on_error=False)
        assert made.is_error
        (block,) = made.content
        words = str(block.text)  # type: ignore[union-attr]
        assert "\n" not in words
        assert "Traceback" not in words
        return words

    async def read(self, uri: str) -> str:
        (content,) = await self.client.read_resource(uri)
        return str(content.text)  # type: ignore[union-attr]

    async def record(self, word: str, output: str, reward: float, **more: Any) -> dict[str, Any]:
        return await self.call("record_attempt", task=f"repeat {word}", output=output, reward=reward, **more)


@asynccontextmanager
async def connected(transport: Any) -> AsyncIterator[Agent]:
    agent: Agent

    async def on_progress(done: float, _total: float | None, message: str | None) -> None:
        agent.progress.append((done, message))

    async def on_message(message: Any) -> None:
        agent.heard.append(type(message).__name__)

    agent = Agent(Client(transport, progress_handler=on_progress, message_handler=on_message))
    async with agent.client:
        yield agent

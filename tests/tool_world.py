"""Tools for tests: what they were called with is written down, and what they do is said by the test."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tokenprior.task import Task
from tokenprior.tools.base import ToolSession, ToolSpec

Act = Callable[[str], str | Awaitable[str]]


@dataclass(eq=False)
class ToyServer:
    """What tools share a session of."""

    called: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        yield


@dataclass(kw_only=True)
class ToyTool:
    """A tool of one argument, `word`."""

    act: Act = lambda word: f"heard {word}"
    name: str = "say"
    repeatable: bool = True
    stateful: bool = False
    called: list[str] = field(default_factory=list)
    sessions: int = 0
    open: int = 0
    parameters: dict[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    )
    close_error: Exception | None = None
    server: ToyServer | None = None

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            name=self.name,
            description="Says a word.",
            parameters=self.parameters,
            repeatable=self.repeatable,
            stateful=self.stateful,
        )

    @property
    def fingerprint(self) -> str:
        return self.name

    @asynccontextmanager
    async def session(self, task: Task) -> AsyncIterator[ToolSession]:
        self.sessions += 1
        self.open += 1
        try:
            yield _Session(self)
        finally:
            self.open -= 1
            if self.close_error:
                raise self.close_error

    def on(self, connection: None) -> ToolSession:
        return _Session(self)


@dataclass
class _Session:
    tool: ToyTool

    async def call(self, arguments: Mapping[str, Any]) -> str:
        self.tool.called.append(arguments["word"])
        made = self.tool.act(arguments["word"])
        return await made if inspect.isawaitable(made) else made

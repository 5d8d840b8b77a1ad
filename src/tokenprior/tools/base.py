"""The protocols of the family: a tool is something that an agent may call while it attempts a task.

Order of events: a config names tools (`Tool`); for each attempt that calls one, its session is opened, once and not
before the first call (`Tool.session`); each call takes arguments and gives text; leaving the session ends all that the
tool started for this attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tokenprior.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What a model is told of a tool, and what may be done with its calls.

    Attributes:
        name: letters, digits and underscores; at most 64 of them.
        description: what it does, in a sentence or two.
        parameters: JSON Schema of the arguments, of type `object`.
        repeatable: whether a call made again changes nothing outside of the attempt. A call that is not is never made
            again on its own: whoever was killed in the middle of one is told that it may or may not have taken effect.
        stateful: whether a call depends on the calls before it in the same attempt, so that they have to be made again
            (unseen) before an attempt that was cut off can go on.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    repeatable: bool = True
    stateful: bool = False


class ToolFailed(Exception):
    """A call that brought nothing; its text is what the model is told. Never ends an attempt."""


class ToolSession(Protocol):
    """A tool as one attempt uses it."""

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """The result in words. The arguments fit `ToolSpec.parameters`.

        Raises:
            ToolFailed: the call brought nothing; its text says why, for the model.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a call gave.

    Attributes:
        text: for the model.
        failed: whether the text says why there is no result.
        seconds: that it took.
    """

    text: str
    failed: bool = False
    seconds: float = 0.0


class ToolLedger(Protocol):
    """Where calls of tools are written down; the store is one. `place` and `made_of` together name a call for good:
    where in which attempt it stands, and a hash of all that came before it."""

    async def tool_call_begun(
        self, place: str, made_of: str, tool: str, arguments: str
    ) -> ToolResult | Literal["doubt"] | None:
        """Note that a call is about to be made. Durable when this returns.

        Returns:
            Its result, if it was made before; `doubt`, if it was begun before and no result was written down; `None`,
            if it is new.
        """
        ...

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        """Note what it gave. Durable when this returns."""
        ...


class Tool(Protocol):
    """A tool as a config names it.

    Tools that share a session have two things more: `server`, an object whose `connected()` opens it, equal for all of
    them, and `on(connection)`, the tool's own session on it.

    Attributes:
        spec: what a model is told of it.
        fingerprint: a hash of all that can change what it does (settings, code, data).
    """

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def fingerprint(self) -> str: ...

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """What one attempt at a task uses. Side by side with others; leaving it ends all that it started."""
        ...

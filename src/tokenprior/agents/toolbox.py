"""Toolbox: the tools of one attempt. Every call is written down before it is made and after it.

Order of events of a call: its arguments are read and checked; the ledger is asked whether it was made before, and
notes that it is about to be; the tool's session is opened if this is its first call; the result is noted and returned.

What an interrupted run finds: a call whose result was noted is not made again, its result is taken. A stateful tool has
the calls before it made again, unseen, before it goes on, and so have those that share its session; where one of them
is not `ToolSpec.repeatable`, the model is told that the tool was started anew. A call that was begun and has no result
is made again if that changes nothing outside (`repeatable`); if not, the model is told that it may or may not have
taken effect.

What a tool gives is told without the secrets of our environment, to the model as to the store: so a resume is the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from tokenprior.errors import TokenpriorError
from tokenprior.redact import redact, without_own_secrets
from tokenprior.reply import Malformed, parse_json
from tokenprior.rollout import ToolCall
from tokenprior.task import Task, content_hash
from tokenprior.text import shorten
from tokenprior.tools.base import Tool, ToolFailed, ToolLedger, ToolResult, ToolSession

IN_DOUBT = (
    "The run was interrupted while this call was being made. It may or may not have taken effect, and it was not made "
    "again. Find out before you go on."
)
ANEW = "(The run was interrupted, and this tool was started anew: what earlier calls left in it is lost.)\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Earlier:
    """A call of a stateful tool that its session, once it is opened, has not seen."""

    tool: Tool
    arguments: Mapping[str, Any]
    seconds: float


class Toolbox:
    """Opens tools when they are first called; leaving it ends all that they started."""

    def __init__(self, tools: Sequence[Tool], task: Task, ledger: ToolLedger) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._task, self._ledger = replace(task, answer=None), ledger  # the answer is not a tool's to give
        self._sessions: dict[str, ToolSession] = {}
        self._unseen: dict[Any, list[_Earlier]] = defaultdict(list)
        self._connections: dict[Any, Any] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self.log: list[dict[str, Any]] = []

    async def __aenter__(self) -> Toolbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        # How a tool ends changes nothing that it gave: a server that died before takes no attempt with it.
        with suppress(Exception):
            await self._stack.aclose()

    def apart(self, calls: Sequence[ToolCall]) -> bool:
        """Whether these calls may be made side by side."""
        specs = [self._tools[call.name].spec for call in calls if call.name in self._tools]
        return all(spec.repeatable and not spec.stateful for spec in specs)

    async def call(self, call: ToolCall, *, place: str, made_of: str, timeout_s: float) -> ToolResult:
        """Make a call, or take what it gave before. What goes wrong with it is a failed result.

        Args:
            place: where the call stands; unique in the run together with `made_of`.
            made_of: a hash of the conversation before it.
            timeout_s: after this the call is given up.

        Raises:
            TokenpriorError: the tool cannot work at all; see `Tool.session`.
        """
        tool = self._tools.get(call.name)
        arguments = self._read(call, tool) if tool else None
        if tool is None:
            result = ToolResult(
                text=f"There is no tool {call.name!r}; there are: {', '.join(self._tools)}.", failed=True
            )
        elif isinstance(arguments, str):
            result = ToolResult(text=arguments, failed=True)
        else:
            made_of = content_hash([made_of, tool.fingerprint, call.name, call.arguments])
            result = await self._kept(tool, arguments or {}, call, place, made_of, timeout_s)
        entry = {"name": call.name, "seconds": round(result.seconds, 3), "failed": result.failed}
        self.log.append(entry | ({"doubt": True} if result.text == IN_DOUBT else {}))
        return result

    async def _kept(
        self, tool: Tool, arguments: Mapping[str, Any], call: ToolCall, place: str, made_of: str, timeout_s: float
    ) -> ToolResult:
        spec = tool.spec
        known = await self._ledger.tool_call_begun(place, made_of, spec.name, call.arguments)
        if isinstance(known, ToolResult):
            self._not_seen(tool, arguments, known.seconds)
            return known
        if known == "doubt" and not spec.repeatable:
            result = ToolResult(text=IN_DOUBT, failed=True)
            self._not_seen(tool, arguments, 0.0)
        else:
            result = await self._made(tool, arguments, timeout_s)
        await self._ledger.tool_call_ended(place, made_of, result)
        return result

    async def _made(self, tool: Tool, arguments: Mapping[str, Any], timeout_s: float) -> ToolResult:
        earlier = self._unseen.pop(_shared(tool), [])
        failed, note, started = True, "", time.monotonic()
        deadline = asyncio.timeout(max(0.001, timeout_s + sum(one.seconds for one in earlier)))
        try:
            async with deadline:
                note = await self._caught_up(earlier)
                started = time.monotonic()  # what was made again has been counted before
                session = await self._session(tool)
                text = await session.call(arguments)
                failed = False
        except ToolFailed as error:
            text = str(error)
        except TokenpriorError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            # A tool of the user's own may raise anything, and that is a result too.
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            text = f"The tool broke: {type(error).__name__}: {shorten(redact(str(error)), 500)}"
            if isinstance(error, TimeoutError) and deadline.expired():
                text = f"No result within {timeout_s:.3g} seconds, which is all that was left to this attempt."
        return ToolResult(text=without_own_secrets(note + text), failed=failed, seconds=time.monotonic() - started)

    def _not_seen(self, tool: Tool, arguments: Mapping[str, Any], seconds: float) -> None:
        if tool.spec.stateful:
            self._unseen[_shared(tool)].append(_Earlier(tool=tool, arguments=arguments, seconds=seconds))

    async def _caught_up(self, earlier: Sequence[_Earlier]) -> str:
        """Make calls again that a session has not seen. What the model has to be told, if that cannot be."""
        if not all(one.tool.spec.repeatable for one in earlier):
            return ANEW
        for one in earlier:
            session = await self._session(one.tool)
            try:
                await session.call(one.arguments)
            except TokenpriorError:
                raise
            except Exception:  # it did so the first time too, and the model knows
                continue
        return ""

    async def _session(self, tool: Tool) -> ToolSession:
        name, server = tool.spec.name, getattr(tool, "server", None)
        async with self._opening:  # calls side by side share what the first of them opens
            if name not in self._sessions:
                if server is None:
                    self._sessions[name] = await self._stack.enter_async_context(tool.session(self._task))
                else:
                    if server not in self._connections:
                        self._connections[server] = await self._stack.enter_async_context(server.connected())
                    self._sessions[name] = tool.on(self._connections[server])  # type: ignore[attr-defined]  # see `Tool`
            return self._sessions[name]

    def _read(self, call: ToolCall, tool: Tool) -> Mapping[str, Any] | str:
        """The arguments, or what is wrong with them in words for the model."""
        try:
            value = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            try:
                value = parse_json(call.arguments)
            except Malformed as error:
                return f"The arguments are not JSON: {error}."
        if not isinstance(value, dict):
            return f"The arguments must be a JSON object, got {shorten(value, 80)}."
        problem = _problem(value, tool.spec.parameters)
        if problem is not None:
            where = ".".join(str(part) for part in problem.absolute_path)
            return f"The arguments do not fit{f' at {where}' if where else ''}: {shorten(problem.message, 300)}."
        return value


def _shared(tool: Tool) -> Any:
    """What tools have in common that share a session."""
    return getattr(tool, "server", None) or tool.spec.name


def _is_cancelled() -> bool:
    """Whether it is this attempt that is being cancelled, and not something within a tool."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _problem(value: Any, schema: Mapping[str, Any]) -> Any:
    import jsonschema
    from referencing import Registry

    try:
        # The registry is empty: a schema that refers to an address is not looked up there.
        return next(jsonschema.Draft202012Validator(schema, registry=Registry()).iter_errors(value), None)
    except Exception:  # a server's schema may be none, such as with patterns of JavaScript; it will judge for itself
        return None

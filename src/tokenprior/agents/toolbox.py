"""Toolbox: the tools of one attempt. Every call is written down before it is made and after it.

Order of events of a call: its arguments are read and checked; the ledger is asked whether it was made before, and
notes that it is about to be; the tool's session is opened if this is its first call; the result is noted and returned.

What an interrupted run finds: a call whose result was noted is not made again, its result is taken. A stateful tool has
the calls before it made again, unseen, before it goes on. A call that was begun and has no result is made again if that
changes nothing outside (`ToolSpec.repeatable`); if not, the model is told that it may or may not have taken effect.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from tokenprior.errors import TokenpriorError
from tokenprior.redact import redact
from tokenprior.reply import Malformed, parse_json
from tokenprior.rollout import ToolCall
from tokenprior.task import Task, content_hash
from tokenprior.text import shorten
from tokenprior.tools.base import Tool, ToolFailed, ToolLedger, ToolResult, ToolSession

IN_DOUBT = (
    "The run was interrupted while this call was being made. It may or may not have taken effect, and it was not made "
    "again. Find out before you go on."
)


class Toolbox:
    """Opens tools when they are first called; leaving it ends all that they started."""

    def __init__(self, tools: Sequence[Tool], task: Task, ledger: ToolLedger) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._task, self._ledger = task, ledger
        self._sessions: dict[str, ToolSession] = {}
        self._unseen: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._connections: dict[Any, Any] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self.log: list[dict[str, Any]] = []

    async def __aenter__(self) -> Toolbox:
        return self

    async def __aexit__(self, *_: object) -> None:
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
            timeout_s: after this the call is given up, and so is the tool's session.

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
            self._unseen[spec.name].append(arguments)
            return known
        if known == "doubt" and not spec.repeatable:
            result = ToolResult(text=IN_DOUBT, failed=True)
        else:
            result = await self._made(tool, arguments, timeout_s)
        await self._ledger.tool_call_ended(place, made_of, result)
        return result

    async def _made(self, tool: Tool, arguments: Mapping[str, Any], timeout_s: float) -> ToolResult:
        name, started = tool.spec.name, time.monotonic()
        failed = True
        try:
            async with asyncio.timeout(max(0.001, timeout_s)):
                session = await self._session(tool)
                earlier = self._unseen.pop(name, [])
                if tool.spec.stateful and tool.spec.repeatable:
                    for again in earlier:
                        await _quietly(session, again)
                text = await session.call(arguments)
                failed = False
        except ToolFailed as error:
            text = str(error)
        except TimeoutError:
            text = f"No result within {timeout_s:.3g} seconds, which is all that was left to this attempt."
        except TokenpriorError:
            raise
        except Exception as error:  # a tool of the user's own may raise anything, and that is a result too
            text = f"The tool broke: {type(error).__name__}: {shorten(redact(str(error)), 500)}"
        return ToolResult(text=text, failed=failed, seconds=time.monotonic() - started)

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
        except ValueError:
            try:
                value = parse_json(call.arguments)
            except Malformed as error:
                return f"The arguments are not JSON: {error}."
        if not isinstance(value, dict):
            return f"The arguments must be a JSON object, got {shorten(value, 80)}."
        import jsonschema

        problem = next(jsonschema.Draft202012Validator(tool.spec.parameters).iter_errors(value), None)
        if problem is not None:
            where = ".".join(str(part) for part in problem.absolute_path)
            return f"The arguments do not fit{f' at {where}' if where else ''}: {shorten(problem.message, 300)}."
        return value


async def _quietly(session: ToolSession, arguments: Mapping[str, Any]) -> None:
    with suppress(ToolFailed):  # it failed the first time too
        await session.call(arguments)

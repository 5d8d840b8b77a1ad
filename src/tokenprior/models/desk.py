"""Desk: where workers on other machines ask for the model and write down the calls of tools.

Order of events: a worker connects, with the token of the run; each of its questions is a message with a number; each is
answered when its answer is there, in any order. So the ledger, the budget, the limits and the retries of a run are in
one place, however many machines its rollouts are made on, and keys of models stay there.

A call that was begun is not cut off when the worker that asked for it is lost: it is paid for, so it ends and is
written down. Whoever asks the very same while it is under way shares it; later the ledger answers. So an attempt that
is made again somewhere else pays for nothing twice.

What is covered: whoever has no token is refused before anything is read; the token is made for this desk, and is kept
nowhere. What is not: messages are not encrypted, as those of the cluster are not; the network has to be one's own.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tokenprior.errors import ConfigError
from tokenprior.models import wire
from tokenprior.models.base import CallKey, Model, Reply, Request
from tokenprior.tools.base import ToolLedger, ToolResult

if TYPE_CHECKING:
    from aiohttp import web


class Desk:
    """A server for the workers of one run. Use as an async context manager; leaving it cuts off what is under way.

    Args:
        model: answers the workers' requests; already limited, retried, budgeted and recorded. `None` refuses them.
        ledger: where their calls of tools are written down.
        host: the address of this machine at which the workers find it.

    Attributes:
        token: what a worker has to show.
    """

    def __init__(self, model: Model | None, ledger: ToolLedger, *, host: str) -> None:
        self._model, self._ledger, self._host = model, ledger, host
        self.token = secrets.token_urlsafe(32)
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._lines: set[web.WebSocketResponse] = set()
        self._work: set[asyncio.Task[Any]] = set()
        self._calls: defaultdict[CallKey, list[tuple[Request, asyncio.Task[Reply]]]] = defaultdict(list)

    @property
    def address(self) -> str:
        """Where the open desk is."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def __aenter__(self) -> Desk:
        from aiohttp import web

        self._runner = web.ServerRunner(web.Server(self._line, access_log=None), shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, 0).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"workers.host {self._host!r}: cannot listen there ({error.strerror or error}): give an address of "
                "this machine that the workers reach"
            ) from error
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        calls = [call for shared in self._calls.values() for _, call in shared]
        for work in (*self._work, *calls):
            work.cancel()
        await asyncio.gather(*self._work, *calls, return_exceptions=True)
        await asyncio.gather(*(line.close() for line in tuple(self._lines)), return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _line(self, http: web.BaseRequest) -> web.StreamResponse:
        """One worker, for as long as it is connected."""
        from aiohttp import WSMsgType, web

        shown = http.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self.token.encode()):
            return web.Response(status=401, text="this desk is for the workers of a run")
        line = web.WebSocketResponse(max_msg_size=wire.MOST_BYTES, heartbeat=wire.HEARTBEAT_S, compress=False)
        await line.prepare(http)
        self._lines.add(line)
        try:
            async for message in line:
                if message.type is WSMsgType.TEXT:
                    work = asyncio.ensure_future(self._answered(line, message.data))
                    self._work.add(work)
                    work.add_done_callback(self._work.discard)
        finally:
            self._lines.discard(line)
        return line

    async def _answered(self, line: web.WebSocketResponse, text: str) -> None:
        try:
            asked = json.loads(text)
            told: dict[str, Any] = {"number": asked["number"]}
        except (ValueError, LookupError, TypeError):
            await line.close(code=1003, message=b"expected questions as JSON, each with a number")
            return
        try:
            told["answer"] = await self._done(asked["what"], asked["value"])
        except Exception as error:
            told["error"] = wire.error_to_json(error)
        with suppress(ConnectionError):  # the worker is lost; what it asked for is written down
            await line.send_str(wire.dumps(told))

    async def _done(self, what: str, value: Any) -> Any:
        match what:
            case "model":
                return wire.reply_to_json(await asyncio.shield(self._call(wire.request_from_json(value))))
            case "tool_call_begun":
                known = await self._ledger.tool_call_begun(**value)
                return wire.result_to_json(known) if isinstance(known, ToolResult) else known
            case "tool_call_ended":
                result = wire.result_from_json(value.pop("result"))
                return await self._ledger.tool_call_ended(**value, result=result)
            case _:
                raise ValueError(f"nothing is known here of {what!r}")

    def _call(self, request: Request) -> asyncio.Task[Reply]:
        """The call of this request: the one that is under way, or a new one."""
        if self._model is None:
            raise ConfigError("agent.model is not set, and the agent asks for one")
        content, shared = replace(request, timeout_s=0.0), self._calls[request.key]
        for other, call in shared:
            if other == content:
                return call
        call = asyncio.ensure_future(self._model.answer(request))
        shared.append((content, call))
        call.add_done_callback(lambda _: self._ended(request.key, call))
        return call

    def _ended(self, key: CallKey, call: asyncio.Task[Reply]) -> None:
        left = [one for one in self._calls.pop(key, ()) if one[1] is not call]
        if left:
            self._calls[key] = left
        if not call.cancelled():
            call.exception()  # whoever asked may be lost; the ledger has it

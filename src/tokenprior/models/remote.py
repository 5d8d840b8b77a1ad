"""Remote: the model and the tool ledger of a run, as its workers on other machines have them.

Both ask the desk of the driver (`models.desk`), over one connection a worker. A connection that is lost is opened
again, and what was not answered is asked again: the desk makes no call twice. A tool that may not be called twice and
whose beginning was written down just before the connection was lost counts as begun: the model is told of the doubt, as
after a crash.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from tokenprior.models import wire
from tokenprior.models.base import CallFailed, Reply, Request
from tokenprior.tools.base import ToolResult

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

PATIENCE_S = 60.0


class Away(Exception):
    """The desk cannot be reached."""


class Line:
    """A worker's connection to the desk.

    Args:
        address: of the desk.
        token: that it wants to see.
        patience_s: how long a desk that cannot be reached is looked for.
    """

    def __init__(self, address: str, token: str, *, patience_s: float = PATIENCE_S) -> None:
        self._address, self._token, self._patience_s = address, token, patience_s
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._opening = asyncio.Lock()
        self._session: ClientSession | None = None
        self._socket: ClientWebSocketResponse | None = None
        self._hearing: asyncio.Task[None] | None = None

    async def ask(self, what: str, value: Any) -> Any:
        """What the desk answers.

        Raises:
            Away: it cannot be reached.
            CallFailed: the question is too large, or as the desk met it.
            Exception: what the desk met, as what it was there.
        """
        number = next(self._numbers)
        text = wire.dumps({"number": number, "what": what, "value": value})
        if len(text) > wire.MOST_BYTES:
            words = f"what is asked is {len(text):,} bytes, and at most {wire.MOST_BYTES:,} go to the desk at once"
            raise CallFailed("too-large", words, retryable=False)
        while True:
            socket = await self.opened()
            self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                await socket.send_str(text)
                told = await self._waiting[number]
            except ConnectionError:
                continue
            finally:
                del self._waiting[number]
            if "error" in told:
                raise wire.error_from_json(told["error"])
            return told["answer"]

    async def opened(self) -> ClientWebSocketResponse:
        """The connection, opened if it is not.

        Raises:
            Away: the desk cannot be reached.
        """
        async with self._opening:
            if self._socket is None or self._socket.closed:
                await self._drop()
                self._socket = await self._connected()
                self._hearing = asyncio.ensure_future(self._hear(self._socket))
            return self._socket

    async def aclose(self) -> None:
        """Close it."""
        await self._drop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _connected(self) -> ClientWebSocketResponse:
        from aiohttp import ClientError, ClientSession, ClientTimeout, WSServerHandshakeError

        if self._session is None:
            timeout = ClientTimeout(total=None, sock_connect=10)
            self._session = ClientSession(timeout=timeout, trust_env=False)
        until, headers = time.monotonic() + self._patience_s, {"Authorization": f"Bearer {self._token}"}
        while True:
            try:
                return await self._session.ws_connect(
                    self._address, headers=headers, max_msg_size=0, heartbeat=wire.HEARTBEAT_S
                )
            except WSServerHandshakeError as error:
                raise Away(f"{self._address} is not the desk of this run (HTTP {error.status})") from error
            except (ClientError, OSError) as error:
                if time.monotonic() > until:
                    raise Away(f"{self._address} cannot be reached from here: {error}") from error
            await asyncio.sleep(0.5)

    async def _hear(self, socket: ClientWebSocketResponse) -> None:
        from aiohttp import WSMsgType

        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    told = json.loads(message.data)
                    waiting = self._waiting.get(told["number"])
                    if waiting is not None and not waiting.done():
                        waiting.set_result(told)
        finally:
            await socket.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError("the connection to the desk was lost"))

    async def _drop(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait([self._hearing])  # awaited itself, it would swallow a cancellation of ours
        self._hearing = self._socket = None


class RemoteModel:
    """The model of the run. A stream that a program asked for comes when the reply is whole."""

    def __init__(self, line: Line, *, name: str) -> None:
        self._line, self._name = line, name

    @property
    def name(self) -> str:
        return self._name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. Whoever stops waiting does not stop the call: it ends, and is written down."""
        return wire.reply_from_json(await self._line.ask("model", wire.request_to_json(request)))


class RemoteToolLedger:
    """The tool ledger of the run."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def tool_call_begun(
        self, place: str, made_of: str, tool: str, arguments: str
    ) -> ToolResult | Literal["doubt"] | None:
        """See `ToolLedger.tool_call_begun`."""
        value = {"place": place, "made_of": made_of, "tool": tool, "arguments": arguments}
        known = await self._line.ask("tool_call_begun", value)
        if known is None:
            return None
        return "doubt" if known == "doubt" else wire.result_from_json(known)

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        """See `ToolLedger.tool_call_ended`."""
        value = {"place": place, "made_of": made_of, "result": wire.result_to_json(result)}
        await self._line.ask("tool_call_ended", value)

"""Connection: one of a client's, with limits of time that aiohttp has not, and every refusal in OpenAI's shape.

aiohttp closes a connection that stays idle, but one that sends its headers a byte at a time holds it for as long. Here
a clock starts with the first byte of a request and stops when its headers are complete.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tokenprior.agents.seat import Refused
from tokenprior.redact import redact
from tokenprior.text import shorten

IDLE_S = 75.0  # between requests; longer than clients keep theirs, so that it is they who close

log = logging.getLogger("tokenprior.serve")


class Connection(web.RequestHandler):
    """What reads requests off a connection."""

    __slots__ = ("_header_s", "_header_timer")

    def __init__(self, server: web.Server, *, header_s: float, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._header_s = header_s
        self._header_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # It waits for a request, and what came did not complete one.
        waiting = self._waiter is not None and not self._waiter.done()
        if not waiting:
            self._stop_timer()
        elif self._header_timer is None:
            self._header_timer = self._loop.call_later(self._header_s, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if self.transport is not None:
            words = f"the headers were not complete within {self._header_s:g} s"
            body = Refused(408, words, "too_slow").body.encode()
            head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp makes of a malformed request or of an error of ours; the connection is closed behind it."""
        if status >= 500:
            log.error("an error of the proxy's own: %s", _where(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("part of the reply is sent")
        words = "the proxy failed; its log says more" if status >= 500 else f"malformed HTTP: {shorten(message, 200)}"
        response = refusal(Refused(status, redact(words), "proxy_error" if status >= 500 else "malformed_request"))
        response.force_close()
        return response


class Server(web.Server):
    """Makes a `Connection` for each client."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, header_s: float) -> None:
        # The handler of a client that goes away is cancelled, and with it the call to the upstream.
        super().__init__(handler, handler_cancellation=True)
        self._settings: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "header_s": header_s,
            "keepalive_timeout": IDLE_S,
            "access_log": None,
            "auto_decompress": False,
            "lingering_time": 2.0,
        }

    def __call__(self) -> Connection:
        return Connection(self, **self._settings)


def refusal(refused: Refused, headers: Mapping[str, str] | None = None) -> web.Response:
    """A refusal as a response. Unlike the gateway's it leaves it to the client to try again after a 408, 429 or 5xx."""
    return web.Response(
        body=refused.body.encode(), status=refused.status, content_type="application/json", headers=headers
    )


def _where(error: BaseException | None) -> str:
    """An error in one line, with the place in the code."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return redact(f"{type(error).__name__}: {shorten(str(error), 300)}{place}")

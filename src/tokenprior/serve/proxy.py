"""Proxy: an OpenAI-compatible server that puts a learned prior into each request and changes nothing else.

Order of events of a request: who may come in (`proxy_access`); its body is read, within its limits; the library that
it wants and the lot that it draws decide what stands before it (`proxy_passage`); it goes on to the upstream; status,
headers and body of the reply come back as they are, errors too, and the pieces of a stream as they come. A client that
goes away takes its call to the upstream with it.

What is covered: POST /v1/chat/completions and /v1/responses get the prior; whatever else is asked under /v1/ passes
through, any method. What is not: websockets; bodies that the client compressed pass without a prior. No redirection is
followed. The handler speaks to aiohttp's low-level server: router and middlewares of its web applications would take
a third of the time that a request may take here.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    web,
)
from multidict import CIMultiDict
from yarl import URL

from tokenprior.agents.seat import Refused
from tokenprior.errors import ConfigError, TokenpriorError
from tokenprior.placement import Api
from tokenprior.redact import redact
from tokenprior.serve.libraries import Libraries, ServedLibrary
from tokenprior.serve.proxy_access import Access
from tokenprior.serve.proxy_connection import Server, refusal
from tokenprior.serve.proxy_metrics import Metrics
from tokenprior.serve.proxy_own import OwnRoutes
from tokenprior.serve.proxy_passage import ID, LIBRARY, TASK, UNIT, Lot, Passage, conditioned
from tokenprior.serve.proxy_record import Note, Recorder
from tokenprior.serve.settings import ServeConfig
from tokenprior.store.served import ServedLog

PRIOR_ROUTES: Mapping[str, Api] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}

# Longer replies are handed on piece by piece.
_WHOLE_BYTES = 256 * 1024
# Upstreams close idle connections after 5 s or more (uvicorn's default); we have to be first, or a request is lost.
_UPSTREAM_IDLE_S = 4.0

# Of one connection, and of what we say ourselves.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT_ON = _HOP_BY_HOP | {"host", "content-length", "expect", ID, LIBRARY, TASK, UNIT}
_GONE = 499

log = logging.getLogger("tokenprior.serve")


class Proxy:
    """The server. Use as an async context manager, then `serve_forever` or the end of the block.

    Args:
        libraries: what is served.
        access: who may come in.
        served: where requests are written down, if the config wants that.
    """

    def __init__(
        self, config: ServeConfig, libraries: Libraries, access: Access, *, served: ServedLog | None = None
    ) -> None:
        self.config, self.libraries, self.access = config, libraries, access
        self._limits = config.limits
        self._lot = Lot(share=config.holdout, seed=config.seed)
        self.metrics = Metrics(lambda: self._in_flight)
        self.recorder = Recorder(served, self.metrics, self._lot, keep=config.traffic.keep) if served else None
        self._own = OwnRoutes(self)
        self._in_flight = 0
        self._draining = False
        self._drained = asyncio.Event()
        self.port = 0

    @property
    def base_url(self) -> str:
        """What clients take for OpenAI's address."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}/v1"

    @property
    def in_flight(self) -> int:
        """How many requests are at the upstream."""
        return self._in_flight

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def __aenter__(self) -> Proxy:
        self.loop = asyncio.get_running_loop()
        self._session = ClientSession(
            # How many are in flight is limited above.
            connector=TCPConnector(limit=0, keepalive_timeout=_UPSTREAM_IDLE_S),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=self._limits.connect_s, sock_read=self._limits.idle_s),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self._runner = web.ServerRunner(Server(self.answer, header_s=self._limits.header_s), shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, self.config.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            await self._session.close()
            where = f"{self.config.host}:{self.config.port}"
            raise ConfigError(f"{where} cannot be had: {error.strerror}: choose another by --host or --port") from error
        self._site = site
        self.port = self._runner.addresses[0][1]
        self._tasks = [asyncio.create_task(self.libraries.watch(self.reloaded))]
        if self.recorder is not None:
            self._tasks.append(asyncio.create_task(self.recorder.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take no more, let what is in flight end, write down what waits."""
        self._draining = True
        await self._site.stop()
        if self._in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), self._limits.drain_s or 0.001)
        await self._runner.cleanup()
        await self._session.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.recorder is not None:
            await self.recorder.flush()

    def hurry(self) -> None:
        """Wait no longer for what is in flight."""
        self._drained.set()

    def reloaded(self, library: ServedLibrary, error: TokenpriorError | None) -> None:
        """Say that a new version was taken, or why not."""
        outcome = "failed" if error else "taken"
        self.metrics.reloads.labels(library.name, outcome).inc()
        if error:
            log.error("library %s stays at %s: %s", library.name, library.version, redact(str(error)))
        else:
            log.info("library %s is now %s, %s", library.name, library.version, library.count_words)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request."""
        path, _, _ = request.raw_path.partition("?")
        own = self._own.by_path.get(path)
        response: web.StreamResponse
        try:
            self.access.admit(request.headers, open_here=path in self._own.without_key)
            if own is not None:
                response = await own(request)
            elif path.startswith("/v1/"):
                response = await self._passed(request, path)
            else:
                raise Refused(404, f"no {path} here: OpenAI's API is under /v1/", "not_found")
        except Refused as refused:
            response = refusal(refused, {"Retry-After": "1"} if refused.status == 429 else None)
            self.metrics.answered(_route(path), "none", "none", refused.status)
        if self._draining:
            response.force_close()
        return response

    async def _passed(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if self._in_flight >= self._limits.in_flight:
            raise Refused(429, f"{self._in_flight} requests are in flight, and no more are let in", "too_many_requests")
        self._in_flight += 1
        try:
            return await self._exchanged(request, path)
        finally:
            self._in_flight -= 1
            if self._draining and not self._in_flight:
                self._drained.set()

    async def _exchanged(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        began = self.loop.time()
        if (path not in PRIOR_ROUTES and _leaves(path)) or request.method in ("CONNECT", "TRACE"):
            raise Refused(400, "expected a plain path under /v1/ and a method of the API", "invalid_path")
        body = await self.body_of(request)
        came = self.loop.time()
        api = PRIOR_ROUTES.get(path) if request.method == "POST" else None
        passage = None
        if api is not None:
            records = self.recorder is not None
            passage = conditioned(api, body, request.headers, self.libraries, self._lot, records=records)
            body = passage.body
        headers = self._headers_on(request, identity=passage is not None)
        self.metrics.added_s.observe(self.loop.time() - came)
        crossing = _Crossing(self, request, path, passage, began)
        try:
            return await crossing.over(body, headers)
        finally:
            crossing.end()

    async def body_of(self, request: web.BaseRequest, most_bytes: int | None = None) -> bytes:
        """The body of a request.

        Raises:
            Refused: it is too large, too slow or malformed.
        """
        most = most_bytes or self._limits.body_bytes
        content = request.content
        if (request.content_length or 0) > most:
            raise _too_large(most)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if content.is_eof():
            return content.read_nowait()
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for piece in content.iter_any():
                    size += len(piece)
                    if size > most:
                        raise _too_large(most)
                    pieces.append(piece)
        except TimeoutError as error:
            raise Refused(408, f"the body did not come within {self._limits.body_s:g} s", "too_slow") from error
        except web.RequestPayloadError as error:
            raise Refused(400, "malformed HTTP: the body broke off", "malformed_request") from error
        return b"".join(pieces)

    def _headers_on(self, request: web.BaseRequest, *, identity: bool) -> CIMultiDict[str]:
        """The headers that go to the upstream."""
        headers = request.headers.copy()
        for name in _left_out(headers, _NOT_SENT_ON):
            headers.popall(name, None)
        if self.access.consumes:
            headers.popall("Authorization", None)
        if identity:  # so that what passes can be read; the client takes that too
            headers["Accept-Encoding"] = "identity"
        if self.access.upstream_key:
            headers["Authorization"] = f"Bearer {self.access.upstream_key}"
        try:
            "".join(headers.values()).encode()
        except UnicodeEncodeError as error:
            raise Refused(400, "a header is neither ASCII nor UTF-8", "invalid_header") from error
        return headers

    async def call(self, method: str, target: str, body: bytes, headers: CIMultiDict[str]) -> ClientResponse:
        """The upstream's response; to be closed.

        Raises:
            Refused: there is none.
        """
        data: Any = body or None
        if len(body) > 1_000_000:  # of a large text in memory the client would warn
            data = io.BytesIO(body)
        url = URL(self.config.upstream + target.removeprefix("/v1"), encoded=True)
        try:
            return await self._session.request(method, url, data=data, headers=headers, allow_redirects=False)
        except (ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise _unanswered(error, self._limits.idle_s) from error


class _Crossing:
    """A request at the upstream, and its reply on the way back."""

    def __init__(
        self, proxy: Proxy, request: web.BaseRequest, path: str, passage: Passage | None, began: float
    ) -> None:
        self._proxy, self._request, self._path, self._passage, self._began = proxy, request, path, passage, began
        self._status = 0
        self._note: Note | None = None

    async def over(self, body: bytes, headers: CIMultiDict[str]) -> web.StreamResponse:
        request, response = self._request, None
        try:
            response = await self._proxy.call(request.method, request.raw_path, body, headers)
            return await self._back(response)
        except Refused as refused:
            self._status = refused.status
            if self._note is None:
                self._begin_note(streamed=False)
            return refusal(refused, self._told())
        except asyncio.CancelledError:  # the client went away
            self._status = _GONE
            raise
        finally:
            if response is not None:
                # Of one that was read to its end the connection is free already; any other is cut.
                response.close()

    async def _back(self, response: ClientResponse) -> web.StreamResponse:
        self._status = response.status
        headers = _headers_back(response)
        headers.update(self._told())
        streamed = "event-stream" in headers.get("Content-Type", "")
        self._begin_note(streamed=streamed)
        length = response.content_length
        if length is not None and length <= _WHOLE_BYTES and not streamed and self._request.method != "HEAD":
            try:
                whole = await response.read()
            except (ClientError, OSError) as error:
                raise _unanswered(error, self._proxy.config.limits.idle_s) from error
            if self._note is not None:
                self._note.reply.feed(whole)
            return web.Response(body=whole, status=response.status, reason=response.reason, headers=headers)
        back = web.StreamResponse(status=response.status, reason=response.reason, headers=headers)
        return await self._streamed(response, back)

    async def _streamed(self, response: ClientResponse, back: web.StreamResponse) -> web.StreamResponse:
        loop, idle_s = self._proxy.loop, self._proxy.config.limits.idle_s
        try:
            # One clock for a client that does not read and an upstream that does not write, set anew now and then.
            async with asyncio.timeout(idle_s) as patience:
                await back.prepare(self._request)
                renewed = loop.time()
                async for piece in response.content.iter_any():
                    await back.write(piece)
                    if self._note is not None:
                        self._note.reply.feed(piece)
                    if (now := loop.time()) > renewed + idle_s / 10:
                        patience.reschedule(now + idle_s)
                        renewed = now
            self.end()
            await back.write_eof()
        except (ClientError, OSError) as error:
            # Cut, so that the client sees that it is no end.
            self._status = _GONE if self._request.transport is None else 0
            if self._request.transport is not None:
                self._request.transport.abort()
            log.debug("a reply broke off: %s", type(error).__name__)
        return back

    def _begin_note(self, *, streamed: bool) -> None:
        recorder, passage = self._proxy.recorder, self._passage
        if recorder is not None and passage is not None and passage.library:
            self._note = recorder.begin(passage, streamed=streamed, status=self._status)

    def _told(self) -> dict[str, str]:
        """What the client is told of what stood before its request."""
        passage = self._passage
        return {} if passage is None else {ID: passage.id, LIBRARY: passage.shown}

    def end(self) -> None:
        """Count it and note it, once."""
        proxy, passage, note = self._proxy, self._passage, self._note
        if self._began < 0:
            return
        took_s = proxy.loop.time() - self._began
        self._began = -1.0
        proxy.metrics.total_s.observe(took_s)
        library, arm = (passage.library, passage.arm) if passage else ("none", "none")
        proxy.metrics.answered(_route(self._path), library or "none", arm, self._status)
        if passage is not None and passage.tokens:
            proxy.metrics.prior_tokens.labels(passage.library).inc(passage.tokens)
        if note is not None and proxy.recorder is not None:
            proxy.recorder.end(note, latency_s=took_s, status=self._status)


def _route(path: str) -> str:
    """A path as metrics know it: of the many that there may be, few."""
    return path if path in PRIOR_ROUTES else "/v1/*" if path.startswith("/v1/") else "other"


def _leaves(path: str) -> bool:
    """Whether a path could mean another place than it says."""
    decoded = unquote(path).replace("\\", "/")
    return "#" in path or any(segment in ("..", ".") for segment in decoded.split("/"))


def _left_out(headers: Mapping[str, str], always: frozenset[str]) -> frozenset[str]:
    named = headers.get("Connection", "")
    if not named or named.lower() in ("keep-alive", "close"):
        return always
    return always | {name.strip().lower() for name in named.split(",")}


def _headers_back(response: ClientResponse) -> CIMultiDict[str]:
    """The upstream's headers, less what concerns its connection alone."""
    left_out = _left_out(response.headers, _HOP_BY_HOP)
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in response.headers.items():
        if name.lower() not in left_out:
            headers.add(name, value if value.isascii() else value.encode("utf-8", "replace").decode())
    return headers


def _too_large(most_bytes: int) -> Refused:
    return Refused(413, f"the body is larger than {most_bytes:,} bytes", "body_too_large")


def _unanswered(error: Exception, idle_s: float) -> Refused:
    """Why there is no reply, without a word about where the upstream is."""
    if isinstance(error, ClientConnectorError | socket.gaierror):
        return Refused(502, "the upstream cannot be reached", "upstream_unreachable")
    if isinstance(error, ConnectionTimeoutError):
        return Refused(504, "the upstream cannot be reached in time", "upstream_timeout")
    if isinstance(error, TimeoutError):
        return Refused(504, f"the upstream said nothing for {idle_s:g} s", "upstream_timeout")
    return Refused(502, "the upstream broke off without a reply", "upstream_broke_off")

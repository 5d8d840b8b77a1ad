"""Proxy: an OpenAI-compatible server that puts a learned prior into each request and changes nothing else.

Order of events of a request: who may come in (`access`); its body is read, within its limits; the library that
it wants and the lot that it draws decide what stands before it (`passage`); it goes on to the upstream
(`upstream`); status, headers and body of the reply come back as they are, errors too, and the pieces of a stream
as they come. A client that goes away takes its call to the upstream with it.

What is covered: POST /v1/chat/completions and /v1/responses get the prior; whatever else is asked under /v1/ passes
through, any method. What is not: websockets; bodies that the client compressed pass without a prior. No redirection is
followed. The handler speaks to aiohttp's low-level server: router and middlewares of its web applications would take
a third of the time that a request may take here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote

from aiohttp import ClientError, ClientResponse, web

from tokenprior.agents.seat import Refused
from tokenprior.errors import ConfigError, TokenpriorError
from tokenprior.placement import Api
from tokenprior.redact import redact
from tokenprior.serve.libraries import NONE, Libraries, ServedLibrary
from tokenprior.serve.proxy.access import Access
from tokenprior.serve.proxy.connection import Server, refusal
from tokenprior.serve.proxy.metrics import Metrics
from tokenprior.serve.proxy.own import OwnRoutes
from tokenprior.serve.proxy.passage import ID, LIBRARY, Lot, Passage, conditioned
from tokenprior.serve.proxy.record import Recorder
from tokenprior.serve.proxy.settings import ServeConfig
from tokenprior.serve.proxy.upstream import Upstream, headers_back
from tokenprior.store.served import ServedLog

PRIOR_ROUTES: Mapping[str, Api] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}

_WHOLE_BYTES = 256 * 1024  # longer replies are handed on piece by piece
_GONE = 499  # the client went away; nginx's number for it

log = logging.getLogger("tokenprior.serve")


class Proxy:
    """The server. Use as an async context manager: it listens until that is left.

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
        self.upstream = Upstream(self.config.upstream, self._limits, self.access)
        self._runner = web.ServerRunner(Server(self.answer, header_s=self._limits.header_s), shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, self.config.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            await self.upstream.close()
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
        await self.upstream.close()
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
            self.metrics.answered(_route(path), NONE, NONE, refused.status)
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
        self.metrics.added_s.observe(self.loop.time() - came)
        crossing = Crossing(self, request, path, passage, began)
        try:
            return await crossing.over(body)
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
        pieces, size = [], 0
        try:
            if content.is_eof():  # it is here already, as a rule
                whole = content.read_nowait()
                if len(whole) > most:
                    raise _too_large(most)
                return whole
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


class Crossing:
    """A request at the upstream, and its reply on the way back.

    Args:
        passage: what became of it; `None` where no prior goes.
        began: when it came, by the clock of the loop.
    """

    def __init__(
        self, proxy: Proxy, request: web.BaseRequest, path: str, passage: Passage | None, began: float
    ) -> None:
        self._proxy, self._request, self._path, self._passage, self._began = proxy, request, path, passage, began
        self._status = 0  # no reply came
        self._ended = False
        self._note = proxy.recorder.begin(passage) if proxy.recorder and passage and passage.library else None

    async def over(self, body: bytes) -> web.StreamResponse:
        """Ask the upstream.

        Returns:
            Its response, begun if it is a stream; or why there is none.
        """
        response = None
        try:
            response = await self._proxy.upstream.call(self._request, body, readable=self._passage is not None)
            return await self._back(response)
        except Refused as refused:
            self._status = refused.status
            return refusal(refused, self._told())
        except asyncio.CancelledError:
            self._status = _GONE
            raise
        finally:
            if response is not None:
                # Of one that was read to its end the connection is free already; any other is cut.
                response.close()

    async def _back(self, response: ClientResponse) -> web.StreamResponse:
        self._status = response.status
        headers = headers_back(response)
        headers.update(self._told())
        streamed = "event-stream" in headers.get("Content-Type", "")
        if self._note is not None:
            self._note.reply.streamed = streamed
        length = response.content_length
        if length is not None and length <= _WHOLE_BYTES and not streamed and self._request.method != "HEAD":
            try:
                whole = await response.read()
            except (ClientError, OSError) as error:
                raise self._proxy.upstream.unanswered(error) from error
            if self._note is not None:
                self._note.reply.feed(whole)
            return web.Response(body=whole, status=response.status, reason=response.reason, headers=headers)
        back = web.StreamResponse(status=response.status, reason=response.reason, headers=headers)
        await self._streamed(response, back)
        return back

    async def _streamed(self, response: ClientResponse, back: web.StreamResponse) -> None:
        request, loop, idle_s = self._request, self._proxy.loop, self._proxy.config.limits.idle_s
        try:
            # One clock for a client that does not read and an upstream that does not write, set anew now and then.
            async with asyncio.timeout(idle_s) as patience:
                await back.prepare(request)
                renewed = loop.time()
                async for piece in response.content.iter_any():
                    await back.write(piece)
                    if self._note is not None:
                        self._note.reply.feed(piece)
                    if (now := loop.time()) > renewed + idle_s / 10:
                        patience.reschedule(now + idle_s)
                        renewed = now
            self.end()  # a reward may come as soon as the client has seen the end
            await back.write_eof()
        except (ClientError, OSError):
            # A connection that is closing is the client's doing: seen before the handler is cancelled for it.
            client = request.transport
            left = client is None or client.is_closing() or request.protocol.writing_paused
            self._status = _GONE if left else 0
            if client is not None:
                client.abort()  # so that the client sees that it is no end

    def _told(self) -> dict[str, str]:
        """What the client is told of what stood before its request."""
        passage = self._passage
        return {} if passage is None else {ID: passage.id, LIBRARY: passage.shown}

    def end(self) -> None:
        """Count it and note it; once, however often it is called."""
        if self._ended:
            return
        self._ended = True
        proxy, passage = self._proxy, self._passage
        took_s = proxy.loop.time() - self._began
        proxy.metrics.total_s.observe(took_s)
        library, arm = (passage.library or NONE, passage.arm) if passage else (NONE, NONE)
        proxy.metrics.answered(_route(self._path), library, arm, self._status)
        if passage is not None and passage.tokens:
            proxy.metrics.prior_tokens.labels(library).inc(passage.tokens)
        if self._note is not None and proxy.recorder is not None:
            proxy.recorder.end(self._note, latency_s=took_s, status=self._status)


def _route(path: str) -> str:
    """A path as metrics know it: of the many that there may be, few."""
    return path if path in PRIOR_ROUTES else "/v1/*" if path.startswith("/v1/") else "other"


def _leaves(path: str) -> bool:
    """Whether a path could mean another place than it says."""
    decoded = unquote(path).replace("\\", "/")
    return "#" in path or any(segment in ("..", ".") for segment in decoded.split("/"))


def _too_large(most_bytes: int) -> Refused:
    return Refused(413, f"the body is larger than {most_bytes:,} bytes", "body_too_large")

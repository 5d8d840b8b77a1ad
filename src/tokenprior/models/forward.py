"""Forward: an OpenAI-compatible address, for requests of our own and for those that a program made itself.

Order of events of a request with a body: the body is sent as it is; a refusal gets its meaning (`refusal`); a whole
reply is read, or the events of a stream are handed on one by one as they end; from a copy the text, the calls of tools
and the usage are read for the ledger. What the ledger keeps of the reply (`Reply.body`) is what the program got, byte
for byte. For a request of our own `chat_body` writes the body and reads the reply; the way is the same.

One thing of a program's is changed on the way: a stream that was not asked to count its tokens is, and the event that
says so is kept from the program. Events in between may then hold a `"usage": null` that the program did not ask for.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tokenprior.errors import ModelError
from tokenprior.models.base import STOPS, CallFailed, Reply, Request, address_of, refusal
from tokenprior.models.chat_body import ReadReply, chat_body, chat_reply
from tokenprior.redact import redact
from tokenprior.rollout import StopReason, ToolCall
from tokenprior.text import shorten

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

MOST_BYTES = 50_000_000  # of one reply
LARGE_BYTES = 500_000  # of a request; aiohttp warns of twice that in one piece

_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "credit_balance_exhausted"}
EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class ForwardModel:
    """A model at an OpenAI-compatible address. Tries once; `RetriedModel` asks again.

    Proxies that the environment names (`HTTPS_PROXY`, `NO_PROXY`) are used, but never for this machine.

    Args:
        base_url: such as `http://HOST/v1`, or a function that gives it before each call, for a server that may be
            started anew at another address.
        name: what the ledger, the prices and messages call it.
        model: what the endpoint calls it, for requests of our own.
        key: sent as a bearer token; empty sends none.
        path: behind the base, where the requests go.
        count_streams: whether to ask for the usage of a stream. Without it `MeteredModel` estimates; there are servers
            that refuse `stream_options`.
        json_schema: whether the endpoint can be held to a schema of the reply.
        place: gives the body to send in place of a body, and is left when that was answered; see `models.slots`.
    """

    def __init__(
        self,
        base_url: str | Callable[[], Awaitable[str]],
        *,
        name: str,
        model: str = "",
        key: str = "",
        path: str = "chat/completions",
        count_streams: bool = True,
        json_schema: bool = False,
        place: Callable[[dict[str, Any]], AbstractAsyncContextManager[dict[str, Any]]] | None = None,
    ) -> None:
        self._place = place or nullcontext
        self._base_url, self._name, self._model, self._path = base_url, name, model, path
        self._count_streams, self._json_schema = count_streams, json_schema
        # As it came: the bytes of a stream are handed on.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: ClientSession | None = None

    @classmethod
    def at(
        cls, name: str, *, key_variable: str | None = None, count_streams: bool = True, json_schema: bool = False
    ) -> Self:
        """From `http(s)://HOST/v1#MODEL`; the model `*` is whatever the program asks for.

        Args:
            key_variable: environment variable that holds the key.

        Raises:
            ConfigError: the name cannot be understood, or its key is not in the environment.
        """
        base_url, model, key = address_of(name, key_variable)
        return cls(base_url, name=name, model=model, key=key, count_streams=count_streams, json_schema=json_schema)

    @property
    def name(self) -> str:
        return self._name

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. `request.on_bytes` is taken not to raise."""
        from aiohttp import ClientError

        told = _Told(request.on_bytes)
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.001, request.timeout_s)):
                if request.body is None:
                    async with self._sent(chat_body(request, self._model, json_schema=self._json_schema)) as response:
                        value = await _whole(response, told)
                    return chat_reply(value, latency_s=time.monotonic() - started)
                reply = await self._exchange(request.body, told)
        except (ValueError, RecursionError, ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise self._mapped(error, told, request.timeout_s) from error
        return Reply(
            text=reply.text,
            stop=STOPS.get(reply.finish, StopReason.DONE),
            usage=reply.usage,
            latency_s=time.monotonic() - started,
            tool_calls=tuple(ToolCall(**call) for _, call in sorted(reply.calls.items()) if call["name"]),
            body=told.body.decode("utf-8", "surrogateescape"),
        )

    async def _exchange(self, body: dict[str, Any], told: _Told) -> ReadReply:
        streams = body.get("stream") is True
        options = body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        counted = streams and self._count_streams and not asked
        if counted:
            body = body | {"stream_options": (options if isinstance(options, dict) else {}) | {"include_usage": True}}
        async with self._sent(body) as response:
            # There are servers that know no streams and answer as a whole.
            if streams and response.content_type != "application/json":
                return await _streamed(response, told, strip_usage=counted)
            return ReadReply.of(await _whole(response, told))

    @asynccontextmanager
    async def _sent(self, body: dict[str, Any]) -> AsyncIterator[ClientResponse]:
        """Send a body; the response of a request that was not refused."""
        async with self._place(body) as placed:
            base_url = self._base_url if isinstance(self._base_url, str) else await self._base_url()
            sent = json.dumps(placed).encode()
            async with self._opened().post(
                f"{base_url.rstrip('/')}/{self._path}",
                data=sent if len(sent) < LARGE_BYTES else io.BytesIO(sent),
                headers=self._headers,
                allow_redirects=False,
                proxy=_proxy(base_url),
            ) as response:
                if response.status != 200:
                    raise await self._refused(response)
                yield response

    async def _refused(self, response: ClientResponse) -> Exception:
        said = redact((await response.content.read(1_000_000)).decode("utf-8", "replace"))
        try:
            error = json.loads(said)["error"]
            words = str(error["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            error, words = {}, said
        if 300 <= response.status < 400 and (location := response.headers.get("Location")):
            words = f"the address has moved to {redact(location)}: name that one"  # the key is not carried elsewhere
        detail = shorten(words, 300) or f"HTTP {response.status}"
        if response.status == 402 or (response.status == 429 and _NO_CREDIT & {error.get("code"), error.get("type")}):
            return ModelError(f"{redact(self._name)} refused: the account has no credit left ({detail})")
        return refusal(self._name, response.status, response.headers, detail, said)

    def _opened(self) -> ClientSession:
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

        if self._session is None:
            # The limit of calls in flight is `RetriedModel`'s, the time they may take `answer`'s.
            self._session = ClientSession(
                connector=TCPConnector(limit=0),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None, sock_connect=30),
                trust_env=False,
            )
        return self._session

    def _mapped(self, error: Exception, told: _Told, timeout_s: float) -> CallFailed:
        """Foreign errors as ours. What was handed on cannot be taken back, and is not asked for again."""
        from aiohttp import ClientConnectorError, ClientError, ConnectionTimeoutError

        again = not told.handed_on
        detail = shorten(redact(str(error)), 300) or type(error).__name__
        if isinstance(error, ClientConnectorError | ConnectionTimeoutError | socket.gaierror):
            return CallFailed("unreachable", detail, retryable=again)
        if isinstance(error, TimeoutError):
            return CallFailed("timeout", f"no reply within {timeout_s:.3g} s", retryable=False)
        if isinstance(error, ClientError | OSError):
            return CallFailed("connection", detail, retryable=again)
        return CallFailed("garbled", detail, retryable=again)


@dataclass(slots=True)
class _Told:
    """What the program is told: kept, and handed on."""

    on_bytes: Callable[[bytes], Awaitable[None]] | None
    body: bytearray = field(default_factory=bytearray)
    handed_on: bool = False

    def keep(self, piece: bytes) -> None:
        self.body += piece
        if len(self.body) > MOST_BYTES:
            raise CallFailed("garbled", f"the reply is longer than {MOST_BYTES:,} bytes", retryable=False)

    async def pass_on(self, piece: bytes) -> None:
        self.keep(piece)
        if self.on_bytes is not None:
            self.handed_on = True
            await self.on_bytes(piece)


async def _whole(response: ClientResponse, told: _Told) -> Any:
    async for piece in response.content.iter_any():
        told.keep(piece)
    try:
        return json.loads(told.body)
    except ValueError as error:
        start = told.body[:100].decode("utf-8", "replace")
        raise ValueError(f"expected a chat completion with choices, got {start!r}") from error


@lru_cache(maxsize=64)
def _proxy(base_url: str) -> str | None:
    """The proxy that the environment has for an address."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


async def _streamed(response: ClientResponse, told: _Told, *, strip_usage: bool) -> ReadReply:
    read, ended = ReadReply(), False
    async for event in _events(response):
        data = event_data(event)
        if data == b"[DONE]":
            ended = True
        value = event_value(data)
        if "error" in value and "choices" not in value:
            again = not told.handed_on
            words = value["error"].get("message") if isinstance(value["error"], dict) else value["error"]
            if told.handed_on:
                await told.pass_on(event)
            raise CallFailed("connection", shorten(redact(f"the stream broke off: {words}"), 300), retryable=again)
        read.count(value.get("usage"))
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                read.choice(choice, "delta")
        if not (strip_usage and choices == [] and value.get("usage")):
            await told.pass_on(event)
    if not ended and not read.finish:
        # A server that closes the connection in place of a proper end cannot be told from one that is done.
        raise CallFailed("connection", "the stream ended before its end", retryable=not told.handed_on)
    return read


async def _events(response: ClientResponse) -> AsyncIterator[bytes]:
    """The events of a stream as they came, each with the blank line at its end."""
    rest = b""
    async for piece in response.content.iter_any():
        # A line end may be cut in two, so the last bytes of what was seen before are looked at again.
        seen, rest = max(0, len(rest) - 3), rest + piece
        start = 0
        while end := EVENT_END.search(rest, max(start, seen)):
            yield rest[start : end.end()]
            start = end.end()
        rest = rest[start:]
        if len(rest) > MOST_BYTES:
            raise CallFailed("garbled", f"an event is longer than {MOST_BYTES:,} bytes", retryable=False)
    if rest:
        yield rest


def event_data(event: bytes) -> bytes:
    """What an event of a stream says."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def event_value(data: bytes) -> dict[str, Any]:
    """The JSON object that the data of an event is; an empty one if it is none."""
    try:
        value = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        return {}  # a comment, or what only the program understands
    return value if isinstance(value, dict) else {}

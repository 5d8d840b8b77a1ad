"""What the proxy refuses, it refuses cleanly: in OpenAI's shape, with a 4xx, and with nobody else the worse for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings

from proxy_world import ASKED, client, proxied
from recording_upstream import CHAT, Asked, RecordingUpstream
from tokenprior.errors import ConfigError
from tokenprior.serve.proxy.access import Access
from tokenprior.serve.proxy.server import Proxy
from tokenprior.serve.proxy.settings import ServeConfig

pytestmark = pytest.mark.anyio

CHATS = "/v1/chat/completions"
LOCKED = Access(client_keys=(b"client-key-1", "zweiter-schlüssel".encode()), upstream_key="sk-upstream")


class Raw:
    """A connection on which a test sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def pause(self) -> None:
        """Read no more."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    async def answered(self) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of the next response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
        body = await self.reader.readexactly(int(length.partition(":")[2]))
        return int(head.split()[1]), json.loads(body)

    async def refused(self, status: int) -> dict[str, Any]:
        """The error of a response that has this status, in OpenAI's shape."""
        got, body = await self.answered()
        assert got == status, body
        assert body["error"].keys() == {"message", "type", "param", "code"}
        error: dict[str, Any] = body["error"]
        return error


@asynccontextmanager
async def raw(proxy: Proxy, sent: bytes = b"") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(sent)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def request(body: bytes = ASKED, *headers: str, path: str = CHATS) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nNo colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 1_000 + b"\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /v1/" + b"b" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_malformed_http_is_a_400(tmp_path: Path, sent: bytes) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        raw(proxy, sent) as connection,
    ):
        assert (await connection.refused(400))["code"] == "malformed_request"
        assert await connection.reader.read() == b"", "closed behind it"
        assert not upstream.asked


@pytest.mark.parametrize(
    "sent",
    [
        request(b"zz\r\n", "Transfer-Encoding: chunked"),
        request(ASKED, "X-Odd: \xe9\xff"),
        request(path="/v1/../admin"),
        request(path="/v1/%2e%2e/admin"),
        request(path="/v1/a/..%5cadmin"),
        request(path="/v1/./models"),
        request(path="/v1/models#x"),
        b"TRACE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_what_could_mean_something_else_upstream_is_a_400(tmp_path: Path, sent: bytes) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        raw(proxy, sent) as connection,
    ):
        await connection.refused(400)
        assert not upstream.asked


@pytest.mark.parametrize(
    ("target", "status"),
    [("/", 404), ("/v2/models", 404), ("/v1", 404), ("/healthy", 404), ("http://other.host/v1/models", 404)],
)
async def test_what_is_not_served_is_a_404(tmp_path: Path, target: str, status: int) -> None:
    sent = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url) as proxy,
        raw(proxy, sent) as connection,
    ):
        await connection.refused(status)
        assert not upstream.asked


@pytest.mark.parametrize(
    "sent",
    [
        request(b"a" * 1_001),
        request(b"7d0\r\n" + b"a" * 2_000, "Transfer-Encoding: chunked"),
        request(b"7d0\r\n" + b"a" * 2_000 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    ],
)
async def test_a_body_over_the_limit_is_a_413(tmp_path: Path, sent: bytes) -> None:
    limits = {"limits": {"body_bytes": 1_000}}
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, **limits) as proxy,
        raw(proxy, sent) as connection,
    ):
        assert (await connection.refused(413))["code"] == "body_too_large"
        assert not upstream.asked
        async with client(proxy) as session:
            assert (await session.post(CHATS, data=ASKED)).status == 200


async def test_headers_that_come_a_byte_at_a_time_are_cut_off(tmp_path: Path) -> None:
    limits = {"limits": {"header_s": 0.2}}
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, **limits) as proxy:
        for before in (b"", request()):  # on a new connection, and on one that was good for a request
            async with raw(proxy, before) as connection:
                if before:
                    assert (await connection.answered())[0] == 200
                connection.writer.write(b"POST")
                assert (await connection.refused(408))["code"] == "too_slow"
                assert await connection.reader.read() == b""
            async with raw(proxy, before) as connection:
                if before:
                    assert (await connection.answered())[0] == 200
                ended = asyncio.ensure_future(connection.reader.read())
                connection.writer.write(b"POST / HTTP/1.1\r\n")
                while not ended.done():  # it never stops, and gets no further for it
                    connection.writer.write(b"A: b\r\n")
                    await asyncio.wait([ended], timeout=0.05)
                # What is sent behind the end may be answered by a reset that overtakes the words.
                with suppress(ConnectionResetError):
                    assert b"too_slow" in await ended


async def test_a_connection_that_asks_nothing_yet_is_left_alone(tmp_path: Path) -> None:
    limits = {"limits": {"header_s": 0.05}}
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, **limits) as proxy, raw(proxy) as idle:
        async with raw(proxy, b"G") as slow:  # whose time is up when it has its answer
            await slow.refused(408)
        idle.writer.write(request())
        assert (await idle.answered())[0] == 200


async def test_a_body_that_does_not_come_is_a_408(tmp_path: Path) -> None:
    limits = {"limits": {"body_s": 0.2}}
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, **limits) as proxy,
        raw(proxy, request(ASKED[:20], f"Content-Length: {len(ASKED)}")) as connection,
    ):
        assert (await connection.refused(408))["code"] == "too_slow"
        assert not upstream.asked


async def test_a_client_that_does_not_read_does_not_hold_the_upstream_for_ever(tmp_path: Path) -> None:
    async def endless(request: web.Request, _asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": " + b"a" * 100_000 + b"\n\n")

    limits = {"limits": {"idle_s": 0.3}}
    async with (
        RecordingUpstream(endless) as upstream,
        proxied(tmp_path, upstream.url, **limits) as proxy,
        raw(proxy) as connection,
    ):
        connection.pause()
        connection.writer.write(request())
        await asyncio.wait_for(upstream.left.wait(), 10)


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy:
        async with raw(proxy, request() * 3) as connection:
            assert [(await connection.answered())[0] for _ in range(3)] == [200] * 3
        assert len(upstream.asked) == 3


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer client-key-2", "client-key-1", "Basic client-key-1"])
async def test_without_a_client_key_nobody_comes_in(tmp_path: Path, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, access=LOCKED) as proxy:
        async with client(proxy) as session:
            for method, path in [
                ("POST", CHATS),
                ("GET", "/v1/models"),
                ("POST", "/feedback"),
                ("GET", "/openapi.json"),
            ]:
                answered = await session.request(method, path, data=ASKED, headers=headers)
                assert answered.status == 401
                assert (await answered.json())["error"]["code"] == "invalid_api_key"
            assert (await session.get("/health")).status == 200
            assert (await session.get("/metrics")).status == 200
        assert not upstream.asked


@pytest.mark.parametrize("key", [key.decode() for key in LOCKED.client_keys])
async def test_a_client_key_goes_no_further_and_the_upstreams_key_goes_in_its_place(tmp_path: Path, key: str) -> None:
    sent = request(ASKED, f"Authorization: bearer {key}".encode().decode("latin-1"))
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, access=LOCKED) as proxy:
        async with raw(proxy, sent) as connection:
            assert (await connection.answered())[0] == 200
        assert upstream.asked[0].headers.getall("Authorization") == ["Bearer sk-upstream"]
        assert key not in str(upstream.asked)


async def test_a_client_key_without_an_upstream_key_leaves_none(tmp_path: Path) -> None:
    access = Access(client_keys=(b"client-key-1",))
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, access=access) as proxy:
        async with client(proxy) as session:
            await session.post(CHATS, data=ASKED, headers={"Authorization": "Bearer client-key-1"})
        assert "Authorization" not in upstream.asked[0].headers


async def test_an_upstream_key_takes_the_place_of_the_clients_own(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, access=Access(upstream_key="k")) as proxy,
    ):
        async with client(proxy) as session:
            await session.post(CHATS, data=ASKED, headers={"Authorization": "Bearer own"})
        assert upstream.asked[0].headers.getall("Authorization") == ["Bearer k"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:8100"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8100"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
    ],
)
async def test_pages_of_other_sites_are_kept_out(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url) as proxy, client(proxy) as session:
        assert (await session.post(CHATS, data=ASKED, headers=headers)).status == status
        assert len(upstream.asked) == (status == 200)


async def test_with_client_keys_pages_of_other_sites_may_come_in(tmp_path: Path) -> None:
    headers = {"Origin": "https://app.example", "Authorization": "Bearer client-key-1"}
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, access=LOCKED) as proxy,
        client(proxy) as session,
    ):
        assert (await session.post(CHATS, data=ASKED, headers=headers)).status == 200


def test_an_open_address_needs_client_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServeConfig.model_validate(
        {"upstream": "http://127.0.0.1:1", "libraries": {"a": "a.json"}, "host": "0.0.0.0"}
    )
    monkeypatch.delenv("TOKENPRIOR_CLIENT_KEYS", raising=False)
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0: others than this machine can reach it.*TOKENPRIOR_CLIENT_KEYS"):
        Access.of_environment(config)
    monkeypatch.setenv("TOKENPRIOR_CLIENT_KEYS", " , ")
    with pytest.raises(ConfigError, match="holds no key"):
        Access.of_environment(config)
    monkeypatch.setenv("TOKENPRIOR_CLIENT_KEYS", "one-key, another-key")
    access = Access.of_environment(config)
    assert (access.client_keys, access.local) == ((b"one-key", b"another-key"), False)
    assert "one-key" not in repr(access)
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        Access.of_environment(config.model_copy(update={"key_variable": "MY_KEY"}))
    monkeypatch.setenv("MY_KEY", "sk-1")
    assert Access.of_environment(config.model_copy(update={"key_variable": "MY_KEY"})).upstream_key == "sk-1"


async def test_an_open_address_wants_a_key_for_everything(tmp_path: Path) -> None:
    access = Access(client_keys=(b"client-key-1",), local=False)
    async with (
        RecordingUpstream() as upstream,
        proxied(tmp_path, upstream.url, access=access) as proxy,
        client(proxy) as session,
    ):
        assert (await session.get("/health", headers={"Host": "any.example"})).status == 401
        headers = {"Host": "any.example", "Authorization": "Bearer client-key-1"}
        assert (await session.get("/health", headers=headers)).status == 200


ANYTHING: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "schema": {"type": "string"}}
        for name in ("x-tokenprior-library", "x-tokenprior-unit", "x-tokenprior-task")
    ],
    "requestBody": {"content": {"application/json": {"schema": {}}}},
    "responses": {"default": {"description": "what the upstream says"}},
}
MESSAGES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"enum": ["system", "developer", "user", 3]}, "content": {}},
    },
}
LIKELY: dict[str, Any] = ANYTHING | {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "messages": MESSAGES,
                        "input": MESSAGES,
                        "instructions": {},
                        "model": {},
                        "user": {},
                    },
                }
            }
        }
    }
}


async def test_no_input_makes_our_own_routes_fail(tmp_path: Path) -> None:
    async with RecordingUpstream() as upstream, proxied(tmp_path, upstream.url, holdout=0.5) as proxy:
        async with client(proxy) as session:
            described = await (await session.get("/openapi.json")).json()
        # What passes is described here alone: it is the upstream's to describe.
        described["paths"]["/v1/chat/completions"] = {"post": LIKELY}
        described["paths"]["/v1/responses"] = {"post": LIKELY}
        described["paths"]["/v1/{path}"] = {
            "post": ANYTHING
            | {
                "parameters": [
                    *ANYTHING["parameters"],
                    {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}},
                ]
            }
        }
        # Its calls block, and the proxy answers meanwhile.
        tried = await asyncio.to_thread(_tried, described, f"http://127.0.0.1:{proxy.port}")
        assert tried > 100
        async with client(proxy) as session:
            assert await (await session.post(CHATS, data=ASKED)).read() == CHAT
        assert "proxy_error" not in str(upstream.asked)


def _tried(described: dict[str, Any], address: str) -> int:
    """Call each route with what fits its description and with what does not; how many calls that was."""
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=address)
    calm = settings(
        max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    tried = 0

    def conforms(case: schemathesis.Case) -> None:
        nonlocal tried
        tried += 1
        # Whether a body is good is the upstream's to say where it is the upstream's route.
        passes = case.path.startswith("/v1/")
        case.call_and_validate(checks=[schemathesis.checks.not_a_server_error] if passes else None, timeout=30)

    for found in schema.get_all_operations():
        operation = found.ok()
        # Nothing can be wrong with a request that may say anything.
        modes = list(schemathesis.GenerationMode) if operation.path == "/feedback" else ["positive"]
        for mode in map(schemathesis.GenerationMode, modes):
            calm(given(operation.as_strategy(generation_mode=mode))(conforms))()
    return tried

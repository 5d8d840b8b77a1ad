"""An address: what is peculiar to it beside what `test_provider` says of every endpoint."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from dataclasses import replace

import pytest
from aiohttp import web

from fake_openai import FakeOpenAI, completion
from one_answer import answering
from tokenprior.errors import ConfigError
from tokenprior.models.base import CallFailed, CallKey, Request
from tokenprior.models.forward import LARGE_BYTES, ForwardModel
from tokenprior.rollout import Message

pytestmark = pytest.mark.anyio

REQUEST = Request(
    key=CallKey(phase="rollout"), messages=(Message(role="user", content="Repeat: amber"),), timeout_s=20.0
)
FINE = completion("fine", {"messages": [], "model": "m"})


async def answer(address: str, request: Request = REQUEST) -> str:
    model = ForwardModel.at(f"{address}/v1#m")
    try:
        return (await model.answer(request)).text
    finally:
        await model.aclose()


async def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(str(request.raw_path))
        return web.json_response(FINE)

    async with answering(handle) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "inside.example")
        assert await answer("http://outside.example") == "fine"
        with FakeOpenAI(lambda request: "direct") as server:
            assert await answer(server.url.removesuffix("/v1")) == "direct"
    assert asked == ["http://outside.example/v1/chat/completions"]


async def test_a_very_large_request_arrives_whole(recwarn: pytest.WarningsRecorder) -> None:
    text = "ü" * LARGE_BYTES

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.content.read())
        return web.json_response(completion(str(len(body["messages"][0]["content"])), body))

    async with answering(handle) as address:
        request = replace(REQUEST, messages=(Message(role="user", content=text),))
        assert await answer(address, request) == str(len(text))
    assert not recwarn.list


async def test_an_address_that_has_moved_says_where_to_and_is_not_followed() -> None:
    calls = 0

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return web.Response(status=308, headers={"Location": "https://user:pa55word@elsewhere.example/v1"})

    async with answering(handle) as address:
        with pytest.raises(CallFailed, match="has moved to https://") as caught:
            await answer(address)
    assert (caught.value.kind, caught.value.retryable, calls) == ("http-308", False, 1)
    assert "elsewhere.example/v1" in str(caught.value)
    assert "pa55word" not in str(caught.value)


async def test_a_reply_that_comes_packed_though_nobody_asked_for_it_is_read() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        packed = gzip.compress(json.dumps(FINE).encode())
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    async with answering(handle) as address:
        assert await answer(address) == "fine"


async def test_a_key_with_a_line_end_behind_it_is_sent_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "house-key-0123456789\n")
    with FakeOpenAI() as server:
        await answer(server.url.removesuffix("/v1"))
    assert server.headers[0]["authorization"] == "Bearer house-key-0123456789"


async def test_a_key_that_no_header_can_hold_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "house\nkey-0123456789")
    with pytest.raises(ConfigError, match="TOKENPRIOR_API_KEY holds a line end") as caught:
        ForwardModel.at("http://127.0.0.1:1/v1#m")
    assert "house" not in str(caught.value)


async def test_a_user_in_the_address_is_who_asks_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENPRIOR_API_KEY", "house-key-0123456789")
    monkeypatch.setenv("ITS_KEY", "its-key-0123456789")
    with FakeOpenAI() as server:
        named = server.url.replace("//", "//ann:pa55word@")
        await answer(named.removesuffix("/v1"))
        with pytest.raises(ConfigError, match="give one of them") as caught:
            ForwardModel.at(f"{named}#m", key_variable="ITS_KEY")
    assert server.headers[0]["authorization"] == f"Basic {b64encode(b'ann:pa55word').decode()}"
    assert "pa55word" not in str(caught.value)

"""Providers that keep nothing of a prompt by themselves are told what to keep; what they read and wrote is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from fake_openai import FakeOpenAI
from tokenprior.models.base import CallKey, Phase, Reply, Request
from tokenprior.models.prices import Meter, Price
from tokenprior.models.provider import ProviderModel
from tokenprior.rollout import Message, Usage

pytestmark = pytest.mark.anyio

MODEL = "anthropic:claude-sonnet-4-6"
USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 3_000,
    "cache_creation_input_tokens": 2_000,
    "output_tokens": 7,
}


def request(phase: Phase) -> Request:
    said = (Message(role="system", content="Lessons."), Message(role="user", content="How?"))
    return Request(key=CallKey(phase=phase), messages=said, max_tokens=50, timeout_s=20.0)


@asynccontextmanager
async def anthropic(monkeypatch: pytest.MonkeyPatch, bodies: list[dict[str, Any]]) -> AsyncIterator[ProviderModel]:
    """The model behind a server that speaks Anthropic's Messages API and keeps what it got."""

    async def answer(asked: web.Request) -> web.Response:
        bodies.append(await asked.json())
        return web.json_response(
            {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": "claude-sonnet-4-6",
                "content": [{"type": "text", "text": "So."}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": USAGE,
            }
        )

    app = web.Application()
    app.router.add_post("/v1/messages", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{runner.addresses[0][1]}")
    model = ProviderModel(MODEL)
    try:
        yield model
    finally:
        await model.aclose()
        await runner.cleanup()


async def test_what_all_calls_share_is_marked_and_where_a_prompt_may_go_on_the_rest_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies: list[dict[str, Any]] = []
    async with anthropic(monkeypatch, bodies) as model:
        for phase in ("contrast", "rollout"):
            await model.answer(request(phase))
    contrast, rollout = bodies
    mark = {"type": "ephemeral", "ttl": "5m"}
    for body in bodies:
        assert body["system"] == [{"type": "text", "text": "Lessons.", "cache_control": mark}]
    assert "cache_control" not in contrast, "what nobody reads again would cost a quarter more"
    assert rollout["cache_control"] == mark


async def test_tokens_that_were_read_and_written_are_counted_and_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    async with anthropic(monkeypatch, []) as model:
        reply = await model.answer(request("rollout"))
    assert (reply.usage.input_tokens, reply.usage.cached_tokens, reply.written_tokens) == (5_100, 3_000, 2_000)
    listed = Meter(name=MODEL, prices={}).counted(reply, Usage()).usage.cost_usd
    assert listed == pytest.approx((100 * 3.0 + 3_000 * 0.3 + 2_000 * 3.75 + 7 * 15.0) / 1e6)
    table = {MODEL: Price(input=3.0, output=15.0, cached=0.3)}
    assert Meter(name=MODEL, prices=table).counted(reply, Usage()).usage.cost_usd == pytest.approx(listed)


def test_without_written_tokens_nothing_is_added_to_a_price() -> None:
    reply = Reply(text="", usage=Usage(calls=1, input_tokens=1_000_000))
    assert Meter(name="m", prices={"m": Price(input=2.0, output=0.0)}).counted(reply, Usage()).usage.cost_usd == 2.0


async def test_a_provider_that_keeps_prompts_by_itself_is_sent_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeOpenAI() as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        model = ProviderModel("openai-chat:gpt-5.6")
        await model.answer(request("rollout"))
        await model.aclose()
        assert "cache" not in str(server.bodies)

"""The desk of a driver, and the model and the ledger that its workers have: over a real connection on loopback."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from tokenprior import errors
from tokenprior.errors import BudgetReached, ConfigError, MissingExtra, StoreError, TokenpriorError
from tokenprior.models import wire
from tokenprior.models.base import CallFailed, CallKey, Model, Reply, Request
from tokenprior.models.desk import Desk
from tokenprior.models.remote import Away, Line, RemoteModel, RemoteToolLedger
from tokenprior.rollout import Message, StopReason, ToolCall, Usage
from tokenprior.tools.base import ToolResult

pytestmark = pytest.mark.anyio

IMAGE = "data:image/png;base64,aGVsbG8="


def request(text: str = "hello", *, rollout: int = 0) -> Request:
    key = CallKey(phase="rollout", task="t", rollout=rollout)
    return Request(key=key, messages=(Message(role="user", content=text, images=(IMAGE,)),), seed=7)


class Slow:
    """A model that answers when it is let go."""

    name = "slow"

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answered = 0
        self.came, self.go = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def answer(self, request: Request) -> Reply:
        self.asked.append(request)
        self.came.set()
        await self.go.wait()
        if self.error:
            raise self.error
        self.answered += 1
        return Reply(
            text="said \ud800",
            stop=StopReason.LENGTH,
            usage=Usage(calls=1, input_tokens=3, output_tokens=2, cost_usd=None),
            latency_s=0.25,
            tool_calls=(ToolCall(id="1", name="look", arguments="{}"),),
            opaque="signed",
            body="as it came \udcff",
        )


class Notes:
    """A ledger of tools."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], ToolResult | None] = {}

    async def tool_call_begun(
        self, place: str, made_of: str, tool: str, arguments: str
    ) -> ToolResult | Literal["doubt"] | None:
        if (place, made_of) not in self.kept:
            self.kept[place, made_of] = None
            return None
        return self.kept[place, made_of] or "doubt"

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        self.kept[place, made_of] = result


@asynccontextmanager
async def opened(model: Model | None) -> AsyncIterator[tuple[Desk, Line]]:
    async with Desk(model, Notes(), host="127.0.0.1") as desk:
        line = Line(desk.address, desk.token)
        try:
            yield desk, line
        finally:
            await line.aclose()


async def test_a_request_and_its_reply_arrive_as_they_were_sent() -> None:
    model = Slow()
    model.go.set()
    async with opened(model) as (_, line):
        asked = Request(
            key=CallKey(phase="gate", step=2, task="t", rollout=1, turn=3),
            messages=(*request().messages, Message(role="assistant", content="\ud800", opaque="x")),
            temperature=0.5,
            schema={"type": "object"},
            tools=({"name": "look", "description": "", "parameters": {}},),
            stop=("end",),
            timeout_s=1.5,
            body={"messages": [{"role": "user", "content": "é"}], "stream": True},
        )
        remote = RemoteModel(line, name="slow")
        reply = await remote.answer(asked)
        assert remote.name == "slow"
        assert model.asked == [asked]
        assert reply == await model.answer(asked)


async def test_a_worker_that_is_lost_cuts_no_call_off_and_who_asks_the_same_shares_it() -> None:
    model = Slow()
    async with opened(model) as (desk, first):
        lost = asyncio.ensure_future(RemoteModel(first, name="slow").answer(request()))
        await model.came.wait()
        lost.cancel()
        await first.aclose()
        second = Line(desk.address, desk.token)
        again = asyncio.ensure_future(RemoteModel(second, name="slow").answer(request()))
        model.came.clear()
        other = asyncio.ensure_future(RemoteModel(second, name="slow").answer(request("else")))
        await model.came.wait()  # the desk hears in order: it has heard both
        model.go.set()
        assert (await again).text == "said \ud800"
        await other
        assert [asked.messages[0].content for asked in model.asked] == ["hello", "else"]
        assert model.answered == 2
        await second.aclose()


async def test_a_connection_that_was_lost_is_opened_again_and_what_was_asked_is_asked_again() -> None:
    model = Slow()
    async with opened(model) as (desk, line):
        waiting = asyncio.ensure_future(RemoteModel(line, name="slow").answer(request()))
        await model.came.wait()
        for connection in tuple(desk._lines):
            await connection.close()
        model.go.set()
        assert (await waiting).usage.input_tokens == 3
        assert model.answered >= 1


@pytest.mark.parametrize(
    "error",
    [
        CallFailed("rate-limit", "too many", retryable=True, retry_after_s=2.0, body="{}"),
        BudgetReached("calls", 3, 3),
        ConfigError("a setting"),
        MissingExtra("ray", "ray", "rollouts"),
        StoreError("the disk is full"),
    ],
)
async def test_an_error_is_raised_again_as_what_it_was(error: Exception) -> None:
    model = Slow()
    model.error = error
    model.go.set()
    async with opened(model) as (_, line):
        with pytest.raises(type(error)) as raised:
            await RemoteModel(line, name="slow").answer(request())
    assert str(raised.value) == str(error)
    assert vars(raised.value) == vars(error)


async def test_an_error_of_nobody_s_purpose_says_what_it_was_without_secrets() -> None:
    model = Slow()
    model.error = LookupError("no such thing: sk-abcdefgh12345678")
    model.go.set()
    async with opened(model) as (_, line):
        with pytest.raises(RuntimeError, match=r"LookupError: .*no such thing: \[redacted\]"):
            await RemoteModel(line, name="slow").answer(request())


async def test_calls_of_tools_are_written_down_at_the_driver() -> None:
    async with opened(None) as (_, line):
        ledger = RemoteToolLedger(line)
        result = ToolResult(text="four \ud800", failed=True, seconds=0.5)
        assert await ledger.tool_call_begun("a/0", "hash", "python", "{}") is None
        assert await ledger.tool_call_begun("a/0", "hash", "python", "{}") == "doubt"
        await ledger.tool_call_ended("a/0", "hash", result)
        assert await ledger.tool_call_begun("a/0", "hash", "python", "{}") == result
        with pytest.raises(ConfigError, match=r"agent\.model"):
            await RemoteModel(line, name="").answer(request())


async def test_whoever_has_no_token_is_refused() -> None:
    async with opened(None) as (desk, _):
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Bearer "}):
            async with ClientSession() as session:
                with pytest.raises(WSServerHandshakeError, match="401"):
                    await session.ws_connect(desk.address, headers=headers)
        stranger = Line(desk.address, "guess")
        with pytest.raises(Away, match="not the desk of this run"):
            await stranger.ask("model", wire.request_to_json(request()))
        await stranger.aclose()


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"what": "model"}'])
async def test_words_that_are_no_question_end_the_connection_and_not_the_desk(text: str) -> None:
    async with opened(None) as (desk, line):
        async with ClientSession() as session:
            socket = await session.ws_connect(desk.address, headers={"Authorization": f"Bearer {desk.token}"})
            await socket.send_str(text)
            await socket.receive(timeout=10)
            assert socket.closed
        with pytest.raises(RuntimeError, match="ValueError: nothing is known here of 'tea'"):
            await line.ask("tea", {})


async def test_a_question_that_is_too_large_is_a_failed_call() -> None:
    async with opened(None) as (_, line):
        with pytest.raises(CallFailed, match="too-large"):
            await RemoteModel(line, name="").answer(request("x" * wire.MOST_BYTES))


async def test_a_desk_that_is_not_there_is_away() -> None:
    async with opened(None) as (desk, _):
        gone = desk.address, desk.token
    line = Line(*gone, patience_s=0.0)
    with pytest.raises(Away, match="cannot be reached from here"):
        await line.ask("tea", {})
    await line.aclose()


async def test_an_address_that_is_not_of_this_machine_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"workers.host '192.0.2.77': cannot listen there"):
        async with Desk(None, Notes(), host="192.0.2.77"):
            pass


def test_every_error_on_purpose_travels_between_processes() -> None:
    known = [BudgetReached("usd", 1.0, 0.5), MissingExtra("ray", "ray", "rollouts")]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, TokenpriorError) and kind not in map(type, known):
            known.append(kind(f"{name} says so"))
    for error in known:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))

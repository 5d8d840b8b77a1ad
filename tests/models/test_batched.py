"""Batched: calls travel together at half the price, and what becomes of a batch is no matter of luck."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import world
from batch_server import BatchServer
from tokenprior.endpoint_settings import BatchSettings, EndpointSettings
from tokenprior.errors import ConfigError, ModelError
from tokenprior.models.base import CallFailed, CallKey, Model, Reply, Request
from tokenprior.models.batch_api import BatchApi
from tokenprior.models.batch_carrier import AtProvider, BatchCarrier, BatchTerms
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections, check_name
from tokenprior.models.prices import Meter, Price
from tokenprior.models.retried import RetryPolicy
from tokenprior.rollout import Message, ToolCall
from tokenprior.store import RunStore, Store, open_store

pytestmark = pytest.mark.anyio

TERMS = BatchSettings(collect_s=0.15, poll_s=0.01, least=3)
QUICK = RetryPolicy(attempts=3, backoff_s=0.002, max_backoff_s=0.02, patience_s=60.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "s.db") as opened:
        yield opened


@pytest.fixture
def record(store: Store) -> Iterator[RunStore]:
    opened = store.open_run("r-1", name="r", kind="learn", config={})
    yield opened
    opened.close("done")


def request(number: int = 0, **changes: Any) -> Request:
    said = (
        Message(role="system", content="Do what is asked."),
        Message(role="user", content=f"Repeat: {world.WORDS[number % 16]}{number}"),
    )
    plain = Request(key=CallKey(phase="rollout", task=f"t{number}"), messages=said, seed=1, max_tokens=50)
    return replace(plain, **changes)


@asynccontextmanager
async def connected(
    server: BatchServer,
    record: RunStore,
    terms: BatchSettings | None = TERMS,
    *,
    budget: Budget | None = None,
    at_provider: AtProvider | None = None,
    by_program: bool = False,
) -> AsyncIterator[Model]:
    """The server's model as a session connects it, with what was left behind taken up."""
    connections = Connections(
        EndpointSettings(concurrency=2, batch=terms),
        ledger=record,
        budget=budget or Budget(Limits()),
        prices={server.model: Price(input=1.0, output=1.0)},
        policy=QUICK,
        batches=record.batches,
        at_provider=at_provider,
    )
    async with connections:
        await connections.take_up([server.model])
        yield await (connections.forward(server.model) if by_program else connections.model(server.model))


async def answers(model: Model, count: int, **changes: Any) -> list[Reply | BaseException]:
    asked = (model.answer(request(number, **changes)) for number in range(count))
    return await asyncio.gather(*asked, return_exceptions=True)


def texts(replies: list[Reply | BaseException]) -> list[str]:
    return [reply.text if isinstance(reply, Reply) else str(reply) for reply in replies]


def states(store: Store) -> list[str]:
    return [row["state"] for row in store.rows("calls", "r-1")]


async def test_calls_that_come_together_are_one_batch_whatever_the_number_of_calls_in_flight(
    store: Store, record: RunStore
) -> None:
    with BatchServer() as server:
        async with connected(server, record) as model:
            replies = await answers(model, 40)
        assert len(server.batches) == 1
        assert server.calls == 0, "none was sent alone"
    assert texts(replies) == [world.both(request(number)) for number in range(40)], "rows find their calls in any order"
    assert states(store) == ["done"] * 40
    (batch,) = store.rows("batches", "r-1")
    assert (batch["file"], batch["batch"]) == ("file-0", "batch-0")
    assert batch["ended_at"]


async def test_what_a_batch_brought_is_not_asked_again(record: RunStore) -> None:
    with BatchServer() as server:
        async with connected(server, record) as model:
            first = await answers(model, 3)
            assert await answers(model, 3) == first
        assert server.in_batches == 3


async def test_a_batch_costs_half(record: RunStore) -> None:
    budget = Budget(Limits(usd=1.0))
    with BatchServer() as server:
        async with connected(server, record, budget=budget) as model:
            await answers(model, 3)
    spent = record.spent()
    assert spent == budget.spent
    assert spent.calls == 3
    assert spent.cost_usd == pytest.approx((spent.input_tokens + spent.output_tokens) / 2e6)


async def test_too_few_for_a_batch_go_the_ordinary_way(record: RunStore) -> None:
    budget = Budget(Limits())
    with BatchServer() as server:
        async with connected(server, record, budget=budget) as model:
            assert texts(await answers(model, 2)) == [world.both(request(0)), world.both(request(1))]
        assert (server.calls, server.batches) == (2, {})
    spent = record.spent()
    assert spent == budget.spent, "nothing stays reserved"
    assert spent.cost_usd == pytest.approx((spent.input_tokens + spent.output_tokens) / 1e6), "at the full price"


async def test_the_timeout_of_a_call_does_not_count_at_the_provider(record: RunStore) -> None:
    with BatchServer(busy=5) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3, timeout_s=0.001)
    assert texts(replies) == [world.both(request(number)) for number in range(3)], "and a busy provider is asked again"


async def test_a_reply_may_hold_what_some_take_for_the_end_of_a_line(record: RunStore) -> None:
    with BatchServer(answer=lambda request: "one\u2028two\x85three") as server:
        async with connected(server, record) as model:
            assert texts(await answers(model, 3)) == ["one\u2028two\x85three"] * 3


async def test_rows_that_broke_off_are_read_again(record: RunStore) -> None:
    with BatchServer(cut=2) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 10)
        assert server.cut == 0
        assert set(server.asked.values()) == {1}
    assert texts(replies) == [world.both(request(number)) for number in range(10)]


async def test_a_batch_that_the_provider_does_not_know_is_told_and_can_be_left(store: Store) -> None:
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        loop.call_soon_threadsafe(looked.set)

    record = store.open_run("r-1", name="r", kind="learn", config={})
    with BatchServer(holds=True) as server:
        server.on_look = look
        async with connected(server, record) as model:
            asked = asyncio.ensure_future(answers(model, 3))
            await asyncio.wait_for(looked.wait(), 10)
            asked.cancel()
        server.batches.clear()
        with pytest.raises(
            ModelError, match=r"does not know batch-0.*the key of the same account.*endpoint.batch: false"
        ):
            async with connected(server, record):
                pass
        async with connected(server, record, None) as model:
            assert all(isinstance(reply, Reply) for reply in await answers(model, 3))
    record.close("done")


async def test_a_model_without_openais_form_is_told_when_it_is_opened(
    record: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-not-a-key-1")
    name = "anthropic:claude-haiku-4-5"
    with pytest.raises(
        ConfigError,
        match=r"unless its models leave this one out, needs an endpoint that speaks OpenAI's chat completions",
    ):
        await check_name(name, EndpointSettings(batch=TERMS))
    others = TERMS.model_copy(update={"models": ("openai:gpt-5-mini",)})
    await check_name(name, EndpointSettings(batch=others))


def by_program(number: int, **fields: Any) -> Request:
    plain = request(number)
    messages = [{"role": message.role, "content": message.content} for message in plain.messages]
    return replace(plain, body={"model": "fake", "messages": messages, "seed": 1} | fields)


async def test_requests_of_programs_go_as_they_are_a_batch_a_model_and_streams_alone(
    store: Store, record: RunStore
) -> None:
    asked = [by_program(number, user="me") for number in range(3)]
    asked += [by_program(number, model="other") for number in range(3, 6)]
    asked += [by_program(6, stream=True)]
    with BatchServer() as server:
        async with connected(server, record, by_program=True) as model:
            replies = await asyncio.gather(*map(model.answer, asked))
        sent = [[one["body"] for one in batch.requests] for batch in server.batches.values()]
        sent.sort(key=lambda bodies: bodies[0]["model"])
        assert sent == [[one.body for one in asked[:3]], [one.body for one in asked[3:6]]]
        assert server.calls == 1
    said = [json.loads(reply.body)["choices"][0]["message"]["content"] for reply in replies]
    assert said == [reply.text for reply in replies] == [world.both(one) for one in asked]
    assert [row["by_program"] for row in store.rows("batches", "r-1")] == [1, 1]


async def test_calls_of_tools_come_back_from_a_batch(record: RunStore) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [called]}
    body = {"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
    with BatchServer(trouble=lambda said: {"response": {"status_code": 200, "body": body}}) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3, tools=(tool,))
        (batch,) = server.batches.values()
        assert batch.requests[0]["body"]["tools"][0]["function"]["name"] == "add"
    calls = [reply.tool_calls for reply in replies if isinstance(reply, Reply)]
    assert calls == [(ToolCall(id="c1", name="add", arguments='{"a": 1}'),)] * 3


async def test_failed_rows_are_failures_of_their_calls_alone(store: Store, record: RunStore) -> None:
    refused = {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}}

    def trouble(said: Request) -> dict[str, Any] | None:
        return refused if said.messages[1].content.endswith("2") else None

    with BatchServer(trouble=trouble) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 5)
    failed = replies.pop(2)
    assert isinstance(failed, CallFailed)
    assert (failed.kind, failed.detail) == ("http-400", "too long")
    assert all(isinstance(reply, Reply) for reply in replies)
    assert states(store) == ["done", "done", "failed", "done", "done"]
    assert store.rows("calls", "r-1")[2]["cost_usd"] == 0.0


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"response": {"status_code": 500, "body": {"error": {"message": "oh"}}}}, "http-500"),
        ({"response": {"status_code": 0, "body": None}}, "batch"),
        ({"error": {"code": "server_error", "message": "oh"}}, "batch"),
        ({"response": {"status_code": 200, "body": {"hello": "world"}}}, "garbled"),
        ({"custom_id": "nobody"}, "batch"),
    ],
)
async def test_what_may_pass_goes_in_a_later_batch(store: Store, record: RunStore, row: Any, kind: str) -> None:
    def trouble(said: Request) -> dict[str, Any] | None:
        return row if len(server.batches) == 1 else None

    with BatchServer(trouble=trouble) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
        assert len(server.batches) == 2
    assert all(isinstance(reply, Reply) for reply in replies)
    errors = [row["error"] for row in store.rows("calls", "r-1")]
    assert [error.partition(":")[0] for error in errors[:3]] == [kind] * 3
    assert errors[3:] == [None] * 3


@pytest.mark.parametrize("ends", ["expired", "cancelled"])
async def test_of_a_batch_that_expired_what_is_done_is_kept_and_the_rest_are_timeouts_that_cost_nothing(
    store: Store, record: RunStore, ends: str
) -> None:
    with BatchServer(ends=ends) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 6)
    assert [isinstance(reply, Reply) for reply in replies] == [True, False] * 3
    assert {reply.kind for reply in replies if isinstance(reply, CallFailed)} == {"timeout"}
    assert [row["cost_usd"] == 0.0 for row in store.rows("calls", "r-1")] == [False, True] * 3


async def test_when_patience_ends_the_batch_is_cancelled(record: RunStore) -> None:
    with BatchServer(holds=True) as server:
        terms = TERMS.model_copy(update={"patience_hours": 1e-5})
        async with connected(server, record, terms) as model:
            replies = await answers(model, 4)
        assert [batch.status for batch in server.batches.values()] == ["cancelled"]
    assert [isinstance(reply, Reply) for reply in replies] == [True, False] * 2


async def test_a_batch_of_which_nothing_is_heard_any_more_is_given_up_and_charged_in_full(
    store: Store, record: RunStore
) -> None:
    terms = BatchTerms(collect_s=0.01, least=1, poll_s=0.01, patience_s=0.02, grace_s=0.05)
    with BatchServer(holds=True, cancels=False) as server:
        api = BatchApi(server.model, base_url=server.url, model="fake", key="")
        meter = Meter(name=server.model, prices={server.model: Price(input=1.0, output=1.0)}, share=0.5)
        carrier = BatchCarrier(api, meter=meter, ledger=record.batches, terms=terms, at_provider=AtProvider())
        most = meter.most(request())
        (ended,) = await carrier.carry([(request(), most)])
        await api.aclose()
    assert isinstance(ended.outcome, CallFailed)
    assert (ended.outcome.kind, ended.outcome.retryable) == ("timeout", False)
    assert ended.charged == record.spent() == most
    assert states(store) == ["failed"]


async def test_a_server_without_batches_is_told_in_one_line(store: Store, record: RunStore) -> None:
    with BatchServer(has_batches=False) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
    assert {type(reply) for reply in replies} == {ModelError}
    assert "has no batches" in str(replies[0])
    assert "endpoint.batch: false" in str(replies[0])
    assert states(store) == ["failed"] * 3
    assert record.spent().cost_usd == 0.0


async def test_a_batch_that_is_refused_as_a_whole_ends_the_run_with_the_providers_words(record: RunStore) -> None:
    errors = [{"code": "model_not_found", "message": "no such model", "line": 1}]
    with BatchServer(ends="failed", errors=errors) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
    assert {type(reply) for reply in replies} == {ModelError}
    assert "no such model" in str(replies[0])


async def test_a_provider_that_has_enough_to_do_is_sent_less_later(record: RunStore) -> None:
    errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    with BatchServer(ends="failed", errors=errors) as server:

        def enough() -> None:
            if len(server.batches) == 2:
                server.ends = "completed"

        server.on_batch = enough
        async with connected(server, record, TERMS.model_copy(update={"poll_s": 0.002})) as model:
            replies = await answers(model, 20)
        sizes = [len(batch.requests) for batch in server.batches.values()]
        assert sizes[0] == 20
        assert sizes[1] == 14, "fewer at a time"
    assert all(isinstance(reply, Reply) for reply in replies)


async def test_a_batch_whose_making_was_not_answered_is_looked_for_and_not_made_again(record: RunStore) -> None:
    with BatchServer(lost="all") as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
        assert len(server.batches) == 1
        assert set(server.asked.values()) == {1}
    assert all(isinstance(reply, Reply) for reply in replies)


async def test_a_batch_that_is_not_listed_at_once_is_looked_for_again(record: RunStore) -> None:
    with BatchServer(lost="all", late=1) as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
        assert len(server.batches) == 1
        assert server.late == 0
    assert all(isinstance(reply, Reply) for reply in replies)


async def test_a_batch_that_was_not_made_is_made_later(record: RunStore) -> None:
    with BatchServer(lost="nothing") as server:
        async with connected(server, record) as model:
            replies = await answers(model, 3)
        assert len(server.files) == 3, "two files of requests, and one of replies"
        assert set(server.asked.values()) == {1}
    assert all(isinstance(reply, Reply) for reply in replies)


@pytest.mark.parametrize("place", ["gathering", "uploaded", "made", "noted", "ended"])
async def test_wherever_a_run_is_cut_off_it_finds_its_batch_again_and_pays_nothing_twice(
    store: Store, place: str
) -> None:
    async def ask(cut: asyncio.Event | None) -> list[Reply | BaseException]:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        try:
            async with connected(server, record, terms) as model:
                asked = asyncio.ensure_future(answers(model, 5))
                if cut is not None:
                    await asyncio.wait_for(cut.wait(), 10)
                    asked.cancel()
                return await asked
        except asyncio.CancelledError:
            return []
        finally:
            record.close("stopped")

    cut = asyncio.Event()
    terms = TERMS if place != "gathering" else TERMS.model_copy(update={"collect_s": 5.0})
    with BatchServer(holds=place == "noted", lost="silence" if place == "made" else "") as server:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(cut.set)

        if place == "gathering":
            loop.call_later(0.05, cut.set)
        elif place == "uploaded":
            server.on_upload = stop
        elif place == "made":
            server.on_batch = stop
        else:
            server.on_look = stop
        assert await ask(cut) == []
        left = store.rows("batches", "r-1")
        assert len(left) == (place != "gathering")
        server.release()
        terms = TERMS
        replies = await ask(None)
        assert texts(replies) == [world.both(request(number)) for number in range(5)]
        assert set(server.asked.values()) == {1}, "no reply is paid twice"
        assert len(server.batches) == 1
    rows = store.rows("calls", "r-1")
    assert sum(row["state"] == "done" for row in rows) == 5
    assert {row["state"] for row in rows} <= {"done", "failed"}, "nothing stays in doubt"
    assert sum(row["cost_usd"] > 0 for row in rows) == 5

"""Recorded: every try is written down before it leaves, and no finished call is paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenprior.errors import BudgetReached, ModelError
from tokenprior.models.base import CallFailed, CallKey, Reply, Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.prices import Price
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.rollout import Message, Usage
from tokenprior.store import RunStore, Store, open_store

pytestmark = pytest.mark.anyio

PRICES = {"scripted": Price(input=1.0, output=2.0)}


def request(text: str = "hello", number: int = 0, max_tokens: int = 100) -> Request:
    key = CallKey(phase="rollout", rollout=number)
    return Request(key=key, messages=(Message(role="user", content=text),), max_tokens=max_tokens)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "s.db") as opened:
        yield opened


@pytest.fixture
def record(store: Store) -> Iterator[RunStore]:
    opened = store.open_run("r-1", name="r", kind="learn", config={})
    yield opened
    opened.close("done")


def metered(model: ScriptedModel, record: RunStore, budget: Budget | None = None) -> MeteredModel:
    return MeteredModel(model, record, budget or Budget(Limits(), spent=record.spent()), PRICES)


async def test_a_finished_call_is_answered_from_the_ledger(store: Store, record: RunStore) -> None:
    model = ScriptedModel(["first", "second", "third"])
    asked = ReplayedModel(metered(model, record), record)
    first = await asked.answer(request())
    assert await asked.answer(request()) == first
    assert (await asked.answer(request("other"))).text == "second", "another prompt is another call"
    assert (await asked.answer(request(number=1))).text == "third", "and so is another place in the run"
    assert len(model.requests) == 3
    assert [row["state"] for row in store.rows("calls", "r-1")] == ["done"] * 3


@pytest.mark.parametrize("change", ["temperature", "max_tokens", "seed", "schema", "model"])
async def test_any_changed_input_makes_another_call(record: RunStore, change: str) -> None:
    from dataclasses import replace

    model = ScriptedModel(["before", "after"])
    await ReplayedModel(metered(model, record), record).answer(request())
    changed = request()
    if change == "model":
        model._name = "another"
    else:
        changed = replace(request(), **{change: {"type": "object"} if change == "schema" else 1})
    assert (await ReplayedModel(metered(model, record), record).answer(changed)).text == "after"


async def test_patience_is_no_input(record: RunStore) -> None:
    from dataclasses import replace

    model = ScriptedModel(["once"])
    asked = ReplayedModel(metered(model, record), record)
    await asked.answer(request())
    assert (await asked.answer(replace(request(), timeout_s=1.0))).text == "once"


async def test_a_call_is_written_down_before_it_leaves(store: Store, record: RunStore) -> None:
    seen: list[list[str]] = []

    def script(request: Request) -> str:
        seen.append([row["state"] for row in store.rows("calls", "r-1")])
        return "ok"

    await metered(ScriptedModel(script), record).answer(request())
    assert seen == [["sent"]]


async def test_every_try_is_a_row_of_its_own(store: Store, record: RunStore) -> None:
    left = [CallFailed("http-500", "a", retryable=True), CallFailed("rate-limit", "b", retryable=True)]

    def script(request: Request) -> str:
        if left:
            raise left.pop(0)
        return "ok"

    policy = RetryPolicy(attempts=3, backoff_s=0.001, max_backoff_s=0.002)
    model = RetriedModel(metered(ScriptedModel(script), record), Limit(1), policy)
    await model.answer(request())
    rows = store.rows("calls", "r-1")
    assert [(row["attempt"], row["state"], row["error"]) for row in rows] == [
        (0, "failed", "http-500: a"),
        (1, "failed", "rate-limit: b"),
        (2, "done", None),
    ]


@pytest.mark.parametrize(
    ("kind", "in_full"),
    [("rate-limit", False), ("http-500", False), ("timeout", True), ("connection", True), ("garbled", True)],
)
async def test_a_refusal_costs_nothing_and_a_lost_reply_counts_in_full(
    store: Store, record: RunStore, kind: str, in_full: bool
) -> None:
    def script(request: Request) -> str:
        raise CallFailed(kind, "x", retryable=False)

    budget = Budget(Limits())
    model = metered(ScriptedModel(script), record, budget)
    with pytest.raises(CallFailed):
        await model.answer(request())
    most = model.most(request())
    assert most.cost_usd
    expected = most if in_full else Usage(calls=1, cost_usd=0.0)
    assert budget.spent == record.spent() == expected


async def test_a_refusal_for_good_is_written_down_and_costs_nothing(store: Store, record: RunStore) -> None:
    def script(request: Request) -> str:
        raise ModelError("the key is wrong")

    budget = Budget(Limits())
    with pytest.raises(ModelError):
        await metered(ScriptedModel(script), record, budget).answer(request())
    assert budget.spent == record.spent() == Usage(calls=1)
    assert store.rows("calls", "r-1")[0]["state"] == "failed"


async def test_a_reply_is_priced_and_its_reservation_given_back(record: RunStore) -> None:
    usage = Usage(calls=1, input_tokens=10, output_tokens=5, cost_usd=None)
    budget = Budget(Limits())
    reply = await metered(ScriptedModel([Reply(text="ok", usage=usage)]), record, budget).answer(request())
    assert reply.usage.cost_usd == pytest.approx(20e-6)
    assert budget.spent == record.spent() == reply.usage


async def test_an_endpoint_that_counts_nothing_is_counted_for(record: RunStore) -> None:
    silent = Reply(text="x" * 400, usage=Usage(calls=1, cost_usd=None))
    budget = Budget(Limits())
    model = metered(ScriptedModel([silent]), record, budget)
    await model.answer(request())
    assert budget.spent.output_tokens == 100
    assert budget.spent.input_tokens == model.most(request()).input_tokens > 0


async def test_a_cancelled_call_stays_in_doubt_and_counts_in_full(store: Store, record: RunStore) -> None:
    on_wire = asyncio.Event()

    async def script(request: Request) -> str:
        on_wire.set()
        await asyncio.sleep(3600)
        return "never"

    budget = Budget(Limits())
    model = metered(ScriptedModel(script), record, budget)
    call = asyncio.ensure_future(model.answer(request()))
    await on_wire.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert store.rows("calls", "r-1")[0]["state"] == "sent"
    assert budget.spent == record.spent() == model.most(request())


async def test_a_reply_that_came_is_kept_even_if_the_run_is_just_being_cancelled(
    store: Store, record: RunStore
) -> None:
    class Slow:
        """A ledger that is cancelled in the middle of writing a reply."""

        def __getattr__(self, name: str) -> object:
            return getattr(record, name)

        async def call_done(self, call: int, reply: Reply) -> None:
            asking.cancel()
            await asyncio.sleep(0.001)
            await record.call_done(call, reply)

    model = MeteredModel(ScriptedModel(["paid"]), Slow(), Budget(Limits()), PRICES)  # type: ignore[arg-type]
    asking = asyncio.ensure_future(model.answer(request()))
    with pytest.raises(asyncio.CancelledError):
        await asking
    for _ in range(100):
        if store.rows("calls", "r-1")[0]["state"] == "done":
            break
        await asyncio.sleep(0.001)
    assert (await ReplayedModel(ScriptedModel([]), record).answer(request())).text == "paid"


async def test_a_call_over_budget_never_leaves_and_leaves_no_row(store: Store, record: RunStore) -> None:
    model = ScriptedModel([])
    with pytest.raises(BudgetReached):
        await metered(model, record, Budget(Limits(tokens=50))).answer(request(max_tokens=100))
    assert model.requests == []
    assert store.rows("calls", "r-1") == []


async def test_the_reservation_covers_what_the_estimate_of_the_reply_says() -> None:
    model = MeteredModel(ScriptedModel([]), None, Budget(Limits()), {})  # type: ignore[arg-type]
    most = model.most(request("word " * 100, max_tokens=7))
    assert most.output_tokens == 7
    assert most.input_tokens >= 125
    assert most.calls == 1


async def test_a_crash_leaves_calls_in_doubt_and_the_next_start_charges_them(tmp_path: Path) -> None:
    path = tmp_path / "crashed.db"
    with open_store(path) as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        await record.call_sent("scripted", request(), Usage(calls=1, input_tokens=30, output_tokens=70, cost_usd=0.5))
        record.close("running")  # as after a kill: the row is still open
    with open_store(path) as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        assert [row["state"] for row in store.rows("calls", "r-1")] == ["unknown"]
        assert record.spent() == Usage(calls=1, input_tokens=30, output_tokens=70, cost_usd=0.5)
        assert await record.finished_call("scripted", request()) is None
        model = ScriptedModel(["again"])
        await ReplayedModel(metered(model, record), record).answer(request())
        assert [(row["attempt"], row["state"]) for row in store.rows("calls", "r-1")] == [(0, "unknown"), (1, "done")]
        record.close("done")


async def test_runs_of_one_name_share_what_they_paid_for_and_others_do_not(store: Store, record: RunStore) -> None:
    await ReplayedModel(metered(ScriptedModel(["paid"]), record), record).answer(request())
    same = store.open_run("r-2", name="r", kind="learn", config={})
    assert (await ReplayedModel(ScriptedModel([]), same).answer(request())).text == "paid"
    assert same.spent() == Usage(), "what another run paid is not this one's"
    other = store.open_run("o-1", name="o", kind="learn", config={})
    assert await other.finished_call("scripted", request()) is None
    same.close("done")
    other.close("done")

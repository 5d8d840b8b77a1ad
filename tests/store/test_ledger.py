"""The ledger of calls: what is finished is known without asking, and no finished call is paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.rollout import Message, Usage
from tokenprior.store import RunStore, Store, open_store
from tokenprior.store.ledger import Hashes

pytestmark = pytest.mark.anyio

CALLS = 40


def request(number: int, text: str = "hello") -> Request:
    key = CallKey(phase="rollout", task=f"t{number}")
    return Request(key=key, messages=(Message(role="user", content=text),), max_tokens=9)


def asked(record: RunStore, model: ScriptedModel) -> ReplayedModel:
    metered = MeteredModel(model, record, Budget(Limits()), {})
    return ReplayedModel(RetriedModel(metered, Limit(8), RetryPolicy()), record)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "s.db") as opened:
        yield opened


async def test_a_run_that_goes_on_pays_for_nothing_that_was_finished(store: Store) -> None:
    first = store.open_run("r-1", name="r", kind="learn", config={})
    model = ScriptedModel(lambda request: request.key.task)
    await asyncio.gather(*(asked(first, model).answer(request(number)) for number in range(CALLS // 2)))
    first.close("stopped")
    again = store.open_run("r-1", name="r", kind="learn", config={})
    replies = await asyncio.gather(*(asked(again, model).answer(request(number)) for number in range(CALLS)))
    assert [reply.text for reply in replies] == [f"t{number}" for number in range(CALLS)]
    assert len(model.requests) == CALLS
    again.close("done")


async def test_a_killed_run_asks_again_only_for_what_was_in_flight(tmp_path: Path) -> None:
    """The store is left as it is after a kill: some calls sent, some done, some failed."""
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        for number in range(CALLS):
            call = await record.call_sent("scripted", request(number), Usage(calls=1))
            if number % 3 == 0:
                await record.call_done(call, Reply(text=f"paid {number}"))
            if number % 3 == 1:
                await record.call_failed(call, "http-500", "no", Usage(calls=1))
        record.close("running")
    with open_store(tmp_path / "s.db") as store:
        record = store.open_run("r-1", name="r", kind="learn", config={})
        model = ScriptedModel(lambda request: "asked again")
        replies = [(await asked(record, model).answer(request(number))).text for number in range(CALLS)]
        paid = [number for number in range(CALLS) if number % 3 == 0]
        assert replies == [f"paid {number}" if number in paid else "asked again" for number in range(CALLS)]
        tries = [row["attempt"] for row in store.rows("calls", "r-1") if row["state"] == "done"]
        assert sorted(tries) == [0] * len(paid) + [1] * (CALLS - len(paid)), "each try has its number"
        record.close("done")


async def test_what_is_finished_here_is_known_here_and_by_who_looks_later(store: Store) -> None:
    early, late = (store.open_run(f"r-{number}", name="r", kind="learn", config={}) for number in range(2))
    assert await early.finished_call("scripted", request(0)) is None
    await asked(early, ScriptedModel(["once"])).answer(request(0))
    for record in (early, late):
        found = await record.finished_call("scripted", request(0))
        assert found is not None
        assert found.text == "once"
        assert await record.finished_call("another", request(0)) is None
        assert await record.finished_call("scripted", request(0, "other words")) is None
        assert await record.finished_call("scripted", request(1)) is None
        record.close("done")


async def test_a_failed_call_is_not_finished(store: Store) -> None:
    record = store.open_run("r-1", name="r", kind="learn", config={})
    assert await record.finished_call("scripted", request(0)) is None
    call = await record.call_sent("scripted", request(0), Usage(calls=1))
    await record.call_failed(call, "http-500", "no", Usage(calls=1))
    assert await record.finished_call("scripted", request(0)) is None
    record.close("done")


async def test_the_hash_of_a_request_is_of_what_can_change_its_reply() -> None:
    asked_for = request(0)
    hashed = asked_for.hash_for("m")
    assert hashed == request(0).hash_for("m") == replace(asked_for, timeout_s=1.0).hash_for("m")
    others = [replace(asked_for, temperature=0.5), replace(asked_for, messages=()), replace(asked_for, seed=1)]
    assert len({hashed, asked_for.hash_for("another"), *(other.hash_for("m") for other in others)}) == 5
    assert asked_for == request(0), "what was worked out of it does not make it another"


NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(NUMBERS), st.lists(NUMBERS, max_size=50), st.integers(1, 10))
def test_hashes_are_a_set(first: list[int], later: list[int], most_new: int) -> None:
    class Small(Hashes):
        MOST_NEW = most_new

    made = Small(first)
    known = set(first)
    for number in later:
        assert (number in made) == (number in known)
        made.add(number)
        known.add(number)
    assert all(number in made for number in known)
    assert not any(number + 1 in made for number in known if number + 1 not in known)

"""Budget: what is spent never exceeds what was allowed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.models.budget import Budget, Limits
from tokenprior.rollout import Usage

pytestmark = pytest.mark.anyio


def use(tokens: int = 10, usd: float | None = 0.0) -> Usage:
    return Usage(calls=1, input_tokens=tokens, cost_usd=usd)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# What each call may use at most, the share of it that it does use, and how many turns of the loop it takes.
CALLS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4), st.integers(0, 5)), max_size=30)


@given(CALLS, st.integers(1, 200), st.integers(1, 20), st.integers(1, 100))
@settings(max_examples=150, deadline=None)
def test_whatever_the_order_no_limit_is_exceeded(
    calls: list[tuple[int, int, int]], tokens: int, count: int, cents: int
) -> None:
    limits = Limits(tokens=tokens, calls=count, usd=cents / 100)

    async def play() -> None:
        budget = Budget(limits)
        on_wire: list[Usage] = []

        def within() -> None:
            total = sum(on_wire, budget.spent)
            assert total.input_tokens + total.output_tokens <= tokens
            assert total.calls <= count
            assert total.cost_usd is not None
            assert total.cost_usd <= cents / 100 + 1e-9

        async def call(most: int, quarters: int, turns: int) -> None:
            reserved = Usage(calls=1, input_tokens=most // 2, output_tokens=most - most // 2, cost_usd=most / 100)
            try:
                ticket = await budget.reserve(reserved)
            except BudgetReached:
                return
            on_wire.append(reserved)
            within()
            for _ in range(turns):
                await asyncio.sleep(0)
            on_wire.remove(reserved)
            part = most * quarters // 4
            budget.settle(ticket, Usage(calls=1, input_tokens=part, cost_usd=part / 100))
            within()

        # Nobody waits for ever: every call ends, admitted or not.
        await asyncio.wait_for(asyncio.gather(*(call(*each) for each in calls)), timeout=20)
        within()

    asyncio.run(play())


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
def test_what_is_given_back_leaves_room_for_just_as_much(calls: list[tuple[float, bool]]) -> None:
    """Whatever came and went before, the whole limit can be used again."""

    async def play() -> None:
        budget = Budget(Limits(usd=100.0, tokens=10_000, calls=100))
        on_wire: list[int] = []
        for usd, ends in calls:
            on_wire.append(await budget.reserve(use(10, usd)))
            if ends:
                budget.settle(on_wire.pop(0), Usage())
        for ticket in on_wire:
            budget.settle(ticket, Usage())
        everything = Usage(calls=100, input_tokens=10_000, cost_usd=100.0)
        budget.settle(await budget.reserve(everything), Usage())
        assert await budget.reserve(everything)

    asyncio.run(play())


async def test_a_call_that_does_not_fit_ends_it_for_all_later_ones() -> None:
    budget = Budget(Limits(tokens=25))
    budget.settle(await budget.reserve(use(10)), use(10))
    with pytest.raises(BudgetReached, match="tokens limit 25, spent 10"):
        await budget.reserve(use(20))
    with pytest.raises(BudgetReached):
        await budget.reserve(use(1))


async def test_a_call_waits_while_those_in_flight_may_leave_room_for_it() -> None:
    budget = Budget(Limits(tokens=100))
    first = await budget.reserve(use(90))
    waiting = asyncio.ensure_future(budget.reserve(use(50)))
    await settled()
    assert not waiting.done()
    budget.settle(first, use(20))
    second = await waiting
    budget.settle(second, use(50))
    assert budget.spent.input_tokens == 70


async def test_a_call_that_waited_in_vain_is_refused() -> None:
    budget = Budget(Limits(tokens=100))
    first = await budget.reserve(use(90))
    waiting = [asyncio.ensure_future(budget.reserve(use(50))) for _ in range(3)]
    await settled()
    budget.settle(first, use(90))
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, BudgetReached) for end in ended)


async def test_a_call_that_is_too_large_for_what_is_spent_does_not_wait() -> None:
    budget = Budget(Limits(tokens=100))
    await budget.reserve(use(90))
    with pytest.raises(BudgetReached):
        await budget.reserve(use(101))


async def test_one_that_gives_up_waiting_leaves_nothing_reserved() -> None:
    budget = Budget(Limits(tokens=100))
    first = await budget.reserve(use(90))
    waiting = asyncio.ensure_future(budget.reserve(use(50)))
    await settled()
    waiting.cancel()
    await settled()
    budget.settle(first, use(0))
    budget.settle(await budget.reserve(use(100)), use(100))
    assert budget.spent.input_tokens == 100


async def test_what_earlier_parts_of_the_run_spent_counts() -> None:
    budget = Budget(Limits(calls=3), spent=Usage(calls=2))
    budget.settle(await budget.reserve(use()), use())
    with pytest.raises(BudgetReached, match="calls limit 3, spent 3"):
        await budget.reserve(use())


async def test_money_cannot_be_limited_where_the_price_is_not_known() -> None:
    with pytest.raises(ConfigError, match="prices"):
        await Budget(Limits(usd=1.0)).reserve(use(usd=None))
    with pytest.raises(ConfigError, match="unknown price"):
        await Budget(Limits(usd=1.0), spent=use(usd=None)).reserve(use(usd=0.1))
    assert await Budget(Limits(tokens=100)).reserve(use(usd=None))


async def test_no_minutes_left_is_no_call() -> None:
    budget = Budget(Limits(minutes=1e-9))
    with pytest.raises(BudgetReached, match="minutes"):
        await budget.reserve(use())


async def test_without_limits_everything_is_admitted() -> None:
    budget = Budget(Limits())
    tickets = [await budget.reserve(use(10**9, None)) for _ in range(100)]
    assert len(set(tickets)) == 100

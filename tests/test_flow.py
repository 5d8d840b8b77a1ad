"""Flow: so many at once, results in order, and good endings."""

from __future__ import annotations

import asyncio

import pytest

from tokenprior.errors import BudgetReached
from tokenprior.flow import all_of, in_lanes, in_turn

pytestmark = pytest.mark.anyio


async def test_things_are_begun_in_their_order_and_never_more_at_once_than_allowed() -> None:
    begun: list[int] = []
    now, most = 0, 0

    async def do(number: int) -> int:
        nonlocal now, most
        begun.append(number)
        now += 1
        most = max(most, now)
        for _ in range(1 + number * 7 % 5):
            await asyncio.sleep(0)
        now -= 1
        return number * number

    assert await in_turn(do, range(40), at_once=6) == [number * number for number in range(40)]
    assert begun == list(range(40))
    assert most == 6
    assert await in_turn(do, [], at_once=6) == []


async def test_after_an_error_on_purpose_what_was_begun_ends_and_nothing_more_is_begun() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def do(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 1:
            raise BudgetReached("calls", 1, 1)
        for _ in range(5):
            await asyncio.sleep(0)
        ended.append(number)

    with pytest.raises(BudgetReached):
        await in_turn(do, range(100), at_once=3)
    assert begun == [0, 1, 2]
    assert ended == [0, 2]


@pytest.mark.parametrize("bounded", [True, False])
async def test_any_other_error_and_a_cancellation_cancel_what_was_begun(bounded: bool) -> None:
    cancelled: list[int] = []
    waiting = asyncio.Event()

    async def do(number: int) -> None:
        try:
            if number == 2:
                waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def broken(number: int) -> None:
        if number == 2:
            raise RuntimeError("a bug")
        await do(number)

    with pytest.raises(RuntimeError, match="a bug"):
        await (in_turn(broken, range(100), at_once=3) if bounded else all_of(broken(number) for number in range(3)))
    assert cancelled == [0, 1]
    cancelled.clear()
    whole = asyncio.ensure_future(
        in_turn(do, range(100), at_once=3) if bounded else all_of(do(number) for number in range(3))
    )
    await waiting.wait()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert cancelled == [0, 1, 2]


async def test_lanes_do_not_wait_for_each_other_and_an_error_in_one_ends_all() -> None:
    begun: list[int] = []
    free = asyncio.Event()

    async def do(number: int) -> int:
        begun.append(number)
        if number == 0:
            await free.wait()
        if number == 12:
            free.set()
        return -number

    assert await in_lanes(do, (range(3), 1), (range(10, 13), 1)) == [0, -1, -2, -10, -11, -12]
    assert begun == [0, 10, 11, 12, 1, 2]

    async def broken(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 0:
            raise BudgetReached("calls", 1, 1)
        return number

    begun.clear()
    with pytest.raises(BudgetReached):
        await in_lanes(broken, (range(3), 1), (range(10, 20), 1))
    assert begun == [0, 10]

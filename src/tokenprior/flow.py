"""Flow: many things at once, ended in good order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tokenprior.errors import TokenpriorError

S = TypeVar("S")
T = TypeVar("T")


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; the results in the order of the coroutines, whatever the order of their ends.

    Ends in good order: an error on purpose (a budget, a refused key) lets the others finish, because what they have
    in flight is paid for; anything else, and a cancellation, cancels them. Nothing is left running.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    except TokenpriorError:
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def in_turn(do: Callable[[S], Coroutine[Any, Any, T]], over: Sequence[S], *, at_once: int) -> list[T]:
    """Do the same for many things, begun in their order and `at_once` of them side by side; the results in their order.

    Ends as `all_of` does; after an error nothing more is begun. What is not begun takes no memory.
    """
    return await in_lanes(do, (over, at_once))


async def in_lanes(do: Callable[[S], Coroutine[Any, Any, T]], *lanes: tuple[Sequence[S], int]) -> list[T]:
    """The same for several such lines, none of which waits for another: the results of the first, of the second and so
    on. An error in one ends all.

    Args:
        lanes: things, and how many of them side by side.
    """
    results: dict[int, T] = {}
    broken = False

    async def worker(waiting: Iterator[tuple[int, S]]) -> None:
        nonlocal broken
        while not broken and (item := next(waiting, None)):
            try:
                results[item[0]] = await do(item[1])
            except BaseException:
                broken = True
                raise

    workers: list[Coroutine[Any, Any, None]] = []
    first = 0
    for over, at_once in lanes:
        waiting = enumerate(over, start=first)
        workers += [worker(waiting) for _ in range(min(at_once, len(over)))]
        first += len(over)
    await all_of(workers)
    return [results[place] for place in range(first)]

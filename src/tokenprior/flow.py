"""Flow: many things at once, ended in good order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from tokenprior.errors import TokenpriorError

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

"""Batched: calls that travel to the provider together, at about half the price, and are answered within hours.

A call reserves its budget and joins those that gather; when none has come for `collect_s`, they leave together, see
`batch_carrier`. Time at the provider counts neither as time of a call nor against the number of calls in flight.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenprior.models.base import CallFailed, Model, Reply, Request
from tokenprior.models.batch_api import MOST_BYTES, MOST_REQUESTS
from tokenprior.models.batch_carrier import BatchCarrier
from tokenprior.models.budget import Budget
from tokenprior.rollout import Usage


class TooFew(Exception):
    """Too few calls came together for a batch."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call that waits for its batch."""

    request: Request
    most: Usage
    ticket: int
    size: int
    end: asyncio.Future[Reply]


class BatchedModel:
    """A model whose calls go in batches, each of them budgeted, priced and written down.

    It stands where `MeteredModel` stands else: behind `RetriedModel`, so that calls that failed go in a later batch.
    """

    def __init__(self, carrier: BatchCarrier, budget: Budget) -> None:
        self._carrier, self._budget = carrier, budget
        self._gathered: dict[int, _Call] = {}
        self._size = 0
        self._quiet: asyncio.TimerHandle | None = None
        self._on_the_way: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._carrier.api.name

    async def aclose(self) -> None:
        """Wait for no batch any more. What is at the provider stays there."""
        if self._quiet is not None:
            self._quiet.cancel()
        for task in self._on_the_way:
            task.cancel()
        await asyncio.gather(*self._on_the_way, return_exceptions=True)

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. `request.timeout_s` does not count: a batch takes its time.

        Raises:
            TooFew: nothing was sent, for too few calls came together.
        """
        size = len(self._carrier.api.line("", request))
        if size > MOST_BYTES:
            raise CallFailed("http-413", f"a request of {size:,} bytes is too large for a batch", retryable=False)
        most = self._carrier.meter.most(request)
        ticket = await self._budget.reserve(most)
        end: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        call = _Call(request, most, ticket, size, end)
        if self._size + size > MOST_BYTES or len(self._gathered) >= MOST_REQUESTS:
            self._send()
        self._gathered[ticket] = call
        self._size += size
        self._wait_for_quiet()
        try:
            return await end
        except asyncio.CancelledError:
            if self._gathered.pop(ticket, None):
                self._size -= size
                self._budget.settle(ticket, Usage())
            raise

    def _wait_for_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(self._carrier.terms.collect_s, self._send)

    def _send(self) -> None:
        """Send what has gathered, if it is enough. A batch is for one model, and programs may name several."""
        calls: dict[str, list[_Call]] = {}
        for call in self._gathered.values():
            calls.setdefault(str((call.request.body or {}).get("model")), []).append(call)
        self._gathered, self._size = {}, 0
        for alike in calls.values():
            if len(alike) < self._carrier.terms.least:
                for call in alike:
                    self._settle(call, TooFew(), Usage())
                continue
            task = asyncio.get_running_loop().create_task(self._take(alike))
            self._on_the_way.add(task)
            task.add_done_callback(self._on_the_way.discard)

    async def _take(self, calls: Sequence[_Call]) -> None:
        try:
            ended = await self._carrier.carry([(call.request, call.most) for call in calls])
        except BaseException as error:
            for call in calls:  # in doubt, and charged in full
                self._settle(call, error, call.most)
            if not isinstance(error, Exception):
                raise
            return
        for call, one in zip(calls, ended, strict=True):
            self._settle(call, one.outcome, one.charged)

    def _settle(self, call: _Call, outcome: Reply | BaseException, charged: Usage) -> None:
        self._budget.settle(call.ticket, charged)
        if call.end.done():  # whoever asked has gone
            return
        if isinstance(outcome, Reply):
            call.end.set_result(outcome)
        elif isinstance(outcome, CallFailed):
            # Raised in many places at once, one exception would gather the traces of all.
            call.end.set_exception(outcome.again())
        elif isinstance(outcome, asyncio.CancelledError):
            call.end.cancel()
        else:
            call.end.set_exception(outcome)


class RoutedModel:
    """A model whose calls go in batches where they can, and else the ordinary way.

    Args:
        batched: a `BatchedModel` behind retries.
        ordinary: the same model, called one by one.
    """

    def __init__(self, batched: Model, ordinary: Model) -> None:
        self._batched, self._ordinary = batched, ordinary

    @property
    def name(self) -> str:
        return self._ordinary.name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. A program that wants its reply piece by piece does not get it from a batch."""
        if request.body is None or request.body.get("stream") is not True:
            try:
                return await self._batched.answer(replace(request, timeout_s=math.inf))
            except TooFew:
                pass
        return await self._ordinary.answer(request)

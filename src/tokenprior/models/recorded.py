"""Recorded: every paid reply is kept, and nothing is paid twice.

Two wrappers, because between them stands `RetriedModel`. Outermost, `ReplayedModel` answers from the ledger what was
answered before. Innermost, `MeteredModel` sees every single try: it reserves budget, notes *sent*, lets the call go,
and notes *done* or *failed*. A call that is cut off in flight stays *sent*, a recorded doubt that counts with its
reserved maximum; nobody can promise more for a paid HTTP call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tokenprior.models.base import CallFailed, Ledger, Model, Reply, Request
from tokenprior.models.budget import Budget
from tokenprior.models.prices import NOTHING, Meter, Price
from tokenprior.rollout import Usage


class ReplayedModel:
    """A model that does not ask again what the ledger can answer."""

    def __init__(self, inner: Model, ledger: Ledger) -> None:
        self._inner, self._ledger = inner, ledger

    @property
    def name(self) -> str:
        return self._inner.name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. A replayed reply carries the usage of the day it was paid for."""
        kept = await self._ledger.finished_call(self.name, request)
        return kept or await self._inner.answer(request)


class MeteredModel:
    """A model whose every try is budgeted, priced and written down."""

    def __init__(self, inner: Model, ledger: Ledger, budget: Budget, prices: Mapping[str, Price]) -> None:
        self._inner, self._ledger, self._budget = inner, ledger, budget
        self._meter = Meter(name=inner.name, prices=prices)

    @property
    def name(self) -> str:
        return self._inner.name

    def most(self, request: Request) -> Usage:
        """See `Meter.most`."""
        return self._meter.most(request)

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`."""
        most = self.most(request)
        ticket = await self._budget.reserve(most)
        used = most
        try:
            call = await self._ledger.call_sent(self.name, request, most)
            try:
                reply = await self._inner.answer(request)
            except CallFailed as failure:
                used = self._meter.charged(failure, most)
                await self._ledger.call_failed(call, failure.kind, failure.detail, used)
                raise
            except Exception as error:
                used = NOTHING
                await self._ledger.call_failed(call, "error", str(error), used)
                raise
            if request.on_reply is not None:
                request.on_reply()
            reply = self._meter.counted(reply, most)
            used = reply.usage
            # A paid reply is written down even if the run is being stopped just now.
            await asyncio.shield(self._ledger.call_done(call, reply))
            return reply
        finally:
            self._budget.settle(ticket, used)

"""Recorded: every paid reply is kept, and nothing is paid twice.

Two wrappers, because between them stands `RetriedModel`. Outermost, `ReplayedModel` answers from the ledger what was
answered before. Innermost, `MeteredModel` sees every single try: it reserves budget, notes *sent*, lets the call go,
and notes *done* or *failed*. A call that is cut off in flight stays *sent*, a recorded doubt that counts with its
reserved maximum; nobody can promise more for a paid HTTP call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from tokenprior.library import estimate_tokens
from tokenprior.models.base import CallFailed, Ledger, Model, Reply, Request
from tokenprior.models.budget import Budget
from tokenprior.models.prices import Price, priced
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
        self._inner, self._ledger, self._budget, self._prices = inner, ledger, budget, prices

    @property
    def name(self) -> str:
        return self._inner.name

    def most(self, request: Request) -> Usage:
        """The most this call may use: all of its prompt as fresh input, all of its token limit as output."""
        usage = Usage(calls=1, input_tokens=request.most_input_tokens, output_tokens=request.max_tokens)
        return priced(usage, self.name, self._prices)

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
                used = self._charged(failure, most)
                await self._ledger.call_failed(call, failure.kind, failure.detail, used)
                raise
            except Exception as error:
                used = Usage(calls=1, cost_usd=0.0)
                await self._ledger.call_failed(call, "error", str(error), used)
                raise
            usage = replace(reply.usage, calls=1)
            if not usage.input_tokens and not usage.output_tokens:
                # Some endpoints count nothing. What is not counted would be outside of every budget.
                written = estimate_tokens(reply.text + "".join(call.arguments for call in reply.tool_calls))
                usage = replace(usage, input_tokens=most.input_tokens, output_tokens=written)
            usage = priced(usage, self.name, self._prices)
            reply, used = replace(reply, usage=usage), usage
            # A paid reply is written down even if the run is being stopped just now.
            await asyncio.shield(self._ledger.call_done(call, reply))
            return reply
        finally:
            self._budget.settle(ticket, used)

    def _charged(self, failure: CallFailed, most: Usage) -> Usage:
        """A refusal costs nothing; a reply that never came whole may have been paid for, and counts in full."""
        if failure.kind in ("rate-limit", "unreachable") or failure.kind.startswith("http-"):
            return Usage(calls=1, cost_usd=0.0)
        return most

"""Budget: hard limits on money, tokens, calls and minutes, reserved before each call and settled after it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.rollout import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may spend; `None` is no limit.

    Attributes:
        usd: US dollars over all models of the run, resumed parts included.
        tokens: input and output tokens together, resumed parts included.
        calls: requests sent, resumed parts and failed ones included.
        minutes: wall-clock of one invocation, after which no new call is admitted; those in flight may still end.
    """

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    minutes: float | None = None


class Budget:
    """The tally of one run.

    A call is admitted when what is spent, what the calls in flight may yet cost and what this call may cost at most
    fit the limits together. If only the calls in flight stand in the way, it waits for them; if not, nothing more
    is admitted and `BudgetReached` is raised, here and for every later call.
    """

    def __init__(self, limits: Limits, *, spent: Usage | None = None) -> None:
        self.limits = limits
        self.spent = spent or Usage()
        self._reserved: dict[int, Usage] = {}
        self._held = _Held()
        self._next = 0
        self._changed = asyncio.Event()
        self._started = time.monotonic()
        self._reached: BudgetReached | None = None

    async def reserve(self, most: Usage) -> int:
        """Admit a call that may use at most `most`. Returns a ticket for `settle`.

        Raises:
            BudgetReached: the call does not fit.
            ConfigError: money is limited, but the price of this call, or of one before, is not known.
        """
        if self.limits.usd is not None and most.cost_usd is None:
            raise ConfigError(
                "budget.usd is set, but the price of a model is not known: give it under `prices` "
                "(US dollars per million tokens), or limit tokens instead"
            )
        if self.limits.usd is not None and self.spent.cost_usd is None:
            raise ConfigError(
                "budget.usd is set, but this run has made calls of an unknown price: limit tokens instead, "
                "or start anew under another name with `prices` given"
            )
        while True:
            if self._reached:
                raise self._reached
            if not (over := self._over(most)):
                break
            if not self._reserved or self._over(most, alone=True):
                self._reached = over
                self._wake()
                raise over
            changed = self._changed
            await changed.wait()
        self._next += 1
        self._reserved[self._next] = most
        self._held.change(most, 1)
        return self._next

    def settle(self, ticket: int, used: Usage) -> None:
        """Replace a reservation by what was used."""
        self._held.change(self._reserved.pop(ticket), -1)
        if not self._reserved:
            self._held = _Held()  # sums of fractions of a dollar drift
        self.spent += used
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _over(self, most: Usage, *, alone: bool = False) -> BudgetReached | None:
        limits, spent, held = self.limits, self.spent, _Held() if alone else self._held
        if limits.usd is not None and (
            spent.cost_usd is None or most.cost_usd is None or spent.cost_usd + most.cost_usd + held.usd > limits.usd
        ):
            return BudgetReached("usd", limits.usd, spent.cost_usd or 0.0)
        if limits.tokens is not None and _tokens(spent) + _tokens(most) + held.tokens > limits.tokens:
            return BudgetReached("tokens", limits.tokens, _tokens(spent))
        if limits.calls is not None and spent.calls + most.calls + held.calls > limits.calls:
            return BudgetReached("calls", limits.calls, spent.calls)
        minutes = (time.monotonic() - self._started) / 60
        if limits.minutes is not None and minutes > limits.minutes:
            return BudgetReached("minutes", limits.minutes, minutes)
        return None


@dataclass(slots=True)
class _Held:
    """What all calls in flight may yet use. An unknown price counts nothing: with money limited there is none."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def change(self, most: Usage, sign: int) -> None:
        self.calls += sign * most.calls
        self.tokens += sign * _tokens(most)
        self.usd += sign * (most.cost_usd or 0.0)


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens

"""Retried: one concurrency limit per endpoint, and patience with what passes.

A slot is held only while a call is on the wire, never while it backs off. A rate limit slows the whole endpoint: all
calls pause for as long as it asked, fewer are allowed afterwards, and the number grows back with success. Rate limits
do not count as attempts; only an endpoint that brings nothing for `patience_s` makes a call fail for that reason.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tokenprior.models.base import CallFailed, Model, Phase, Reply, Request

# What ends a group goes before what starts one, so that groups flow through and lessons come early.
_PRIORITY: dict[Phase, int] = {
    "revise": 0,
    "contrast": 1,
    "tips": 1,
    "summary": 2,
    "judge": 3,
    "rollout": 4,
    "audit": 4,
    "evaluate": 4,
    "gate": 5,  # where a step still has rollouts to make, it is ahead of its time (`prove.Baseline`)
}

MOST_GROUPS = 10_000  # whose coming is remembered: more than there are under way


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient to be.

    Attributes:
        attempts: tries of a call that fails for another reason than a rate limit; at least 1.
        backoff_s: wait before the second try; doubles with each one, with up to half of it at random on top.
        max_backoff_s: the longest wait that we choose ourselves.
        patience_s: how long an endpoint may answer nothing but rate limits before its calls fail.
    """

    attempts: int = 5
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    patience_s: float = 900.0


class Slot:
    """A slot that is held, until it is left for the first time."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Let the next call have it."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class Limit:
    """Slots of one endpoint. Adapts between one and `concurrency` (additive increase, multiplicative decrease)."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.allowed = float(concurrency)
        self.in_flight = 0
        self.last_success = time.monotonic()
        self._paused_until = 0.0
        self._reduced = 0.0
        self._waiting: list[tuple[int, bool, int, int, asyncio.Future[None]]] = []
        self._sequence = 0
        self._groups: dict[Hashable, int] = {}  # when each asked for the first time
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def slot(self, phase: Phase, *, begun: bool = False, group: Hashable = None) -> AsyncIterator[Slot]:
        """Hold one slot until the block ends, or until it is left before.

        Within a phase the group that came first is served first, later phases of a group before all.

        Args:
            group: what the call belongs to. What it asks for later, for more attempts or after a failure, goes before
                what other groups began since, or it would wait for them with its lessons.
            begun: whether this goes on with a conversation. It goes before what begins one, or no attempt of many turns
                would end before all have begun.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        came = self._groups.setdefault(group, self._sequence) if group is not None else self._sequence
        if len(self._groups) > MOST_GROUPS:
            del self._groups[next(iter(self._groups))]
        heapq.heappush(self._waiting, (_PRIORITY[phase], not begun, came, self._sequence, future))
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._release()
            raise
        slot = Slot(self._release)
        try:
            yield slot
        finally:
            slot.leave()

    def rate_limited(self, pause_s: float, sent: float | None = None) -> None:
        """The endpoint asked for less.

        Args:
            sent: when the refused call left. Calls that left before the last reduction tell nothing new: a burst of
                refusals is one.
        """
        self._pause(pause_s)
        if sent is not None and sent < self._reduced:
            return
        self._reduced = time.monotonic()
        self.allowed = max(1.0, min(self.allowed, float(max(1, self.in_flight))) * 0.7)

    def _pause(self, pause_s: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + pause_s)

    def succeeded(self) -> None:
        self.last_success = time.monotonic()
        self.allowed = min(float(self.concurrency), self.allowed + 1.0 / max(1.0, self.allowed))
        self._admit()

    def _release(self) -> None:
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        wait = self._paused_until - time.monotonic()
        if wait > 0:
            if self._timer is None and self._waiting:
                self._timer = asyncio.get_running_loop().call_later(wait, self._wake)
            return
        while self._waiting and self.in_flight < int(self.allowed):
            *_, future = heapq.heappop(self._waiting)
            if not future.done():
                self.in_flight += 1
                future.set_result(None)

    def _wake(self) -> None:
        self._timer = None
        self._admit()


class RetriedModel:
    """A model behind its endpoint's limit, asked again where that can help."""

    def __init__(self, inner: Model, limit: Limit, policy: RetryPolicy) -> None:
        self._inner, self._limit, self._policy = inner, limit, policy

    @property
    def name(self) -> str:
        return self._inner.name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`. `request.timeout_s` is what all tries together may take on the wire."""
        left_s = request.timeout_s
        tries = 0
        rate_limits = 0
        started = time.monotonic()
        begun = any(message.role == "assistant" for message in request.messages)
        key = request.key
        group = (key.phase, key.step, key.task) if key.task else None
        while True:
            async with self._limit.slot(key.phase, begun=begun, group=group) as slot:
                sent = time.monotonic()
                try:
                    # The endpoint need not wait until a reply is written down.
                    reply = await self._inner.answer(request.tried(timeout_s=left_s, on_reply=slot.leave))
                except CallFailed as failure:
                    failed = failure
                else:
                    self._limit.succeeded()
                    return reply
                if failed.kind == "rate-limit":
                    pause_s = self._asked_pause_s(failed, rate_limits)
                    # While the slot is still held: its release would let the next call go into the pause.
                    self._limit.rate_limited(pause_s, sent)
                else:
                    left_s -= time.monotonic() - sent
            if failed.kind == "rate-limit":
                rate_limits = min(rate_limits + 1, 10)
                if time.monotonic() - max(started, self._limit.last_success) > self._policy.patience_s:
                    raise failed
                await asyncio.sleep(pause_s)
                continue
            tries += 1
            if not failed.retryable or tries >= self._policy.attempts or left_s <= 0:
                raise failed
            await asyncio.sleep(failed.retry_after_s if failed.retry_after_s is not None else self._pause_s(tries - 1))

    def _asked_pause_s(self, failed: CallFailed, rate_limits: int) -> float:
        """The wait after a rate limit. An endpoint that asks for none, again and again, is not hammered."""
        if failed.retry_after_s is None:
            return self._pause_s(rate_limits)
        return max(failed.retry_after_s, self._policy.backoff_s if rate_limits else 0.0)

    def _pause_s(self, tries: int) -> float:
        pause_s = min(self._policy.max_backoff_s, self._policy.backoff_s * 2.0**tries)
        return pause_s * (1.0 + random.random() / 2)

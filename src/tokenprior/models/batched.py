"""Batched: calls that travel to the provider together, at about half the price, and are answered within hours.

Order of events: a call reserves its budget and joins those that gather; when none has come for `collect_s`, they are
written down as sent, with their batch, in one transaction; the file is uploaded, the batch made, and each id noted as
soon as it is known; the batch is asked after until it has ended; replies and failures are written down in one
transaction, and only then handed out.

So a run that is killed finds its batch again (`BatchCarrier.bring`), wherever it was cut off: a batch without a file
never left; one with a file is looked for among the provider's by that file; one with an id is asked after. A call is
never made again while its batch may still answer it.

Time at the provider counts neither as time of a call nor against the number of calls in flight.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tokenprior.errors import ModelError, TokenpriorError
from tokenprior.models.base import BatchLedger, CallEnd, CallFailed, Model, NotedBatch, Reply, Request
from tokenprior.models.batch_api import MOST_BYTES, MOST_REQUESTS, BatchApi, BatchState
from tokenprior.models.budget import Budget
from tokenprior.models.prices import NOTHING, Meter
from tokenprior.redact import redact
from tokenprior.rollout import Usage

GRACE_S = 1_800.0  # for a batch that is being cancelled; providers take ten minutes
FULL_POLLS = 20  # for so many polls nothing is sent to a provider that has as much as it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """How long is waited for what.

    Attributes:
        collect_s: seconds without a new call after which those that gathered are sent.
        least: calls that make a batch; fewer go the ordinary way.
        poll_s: seconds between two questions after a batch.
        patience_s: after which a batch is cancelled, and what is not done by then has failed.
    """

    collect_s: float = 5.0
    least: int = 10
    poll_s: float = 30.0
    patience_s: float = 86_400.0


class AtProvider:
    """What is in batches at providers now.

    Attributes:
        tell: called when it has changed, and at every look after it.
    """

    def __init__(self) -> None:
        self.tell: Callable[[], None] = lambda: None
        self._batches: dict[tuple[str, int], NotedBatch] = {}

    def put(self, noted: NotedBatch) -> None:
        """Note that a batch is there."""
        self._batches[noted.model, noted.number] = noted
        self.tell()

    def take(self, noted: NotedBatch) -> None:
        """Note that it is no more."""
        if self._batches.pop((noted.model, noted.number), None):
            self.tell()

    def __str__(self) -> str:
        """In words; empty if nothing is there."""
        batches = self._batches.values()
        if not batches:
            return ""
        count = sum(len(noted.calls) for noted in batches)
        what = f"batch of {count:,}" if len(batches) == 1 else f"{len(batches)} batches of {count:,} in all"
        minutes = (time.time() - min(noted.made_at for noted in batches)) / 60
        return f"{what} at the provider since {minutes:.0f} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a call, and what it cost."""

    outcome: Reply | Exception
    charged: Usage


class BatchCarrier:
    """Takes batches of one model to the provider and brings back what became of their calls."""

    def __init__(
        self, api: BatchApi, *, meter: Meter, ledger: BatchLedger, terms: BatchTerms, at_provider: AtProvider
    ) -> None:
        self.api, self.meter, self.terms = api, meter, terms
        self._ledger, self._at_provider = ledger, at_provider

    async def carry(self, calls: Sequence[tuple[Request, Usage]]) -> list[Ended]:
        """Send calls and wait for what becomes of them, in their order.

        Args:
            calls: each with what was reserved for it.

        Raises:
            StoreError: it could not be written down.
            ModelError: the provider does not say what becomes of the batch; `bring` goes on with it.
        """
        noted = await self._ledger.batch_begun(self.api.name, calls, by_program=self.api.by_program)
        try:
            noted = await self._make(noted, [request for request, _ in calls])
        except (CallFailed, TokenpriorError) as error:
            return await self._end(noted, {}, error)
        ended = await self.bring(noted)
        assert ended is not None, "it was waited for"
        return ended

    async def bring(self, noted: NotedBatch, *, wait: bool = True) -> list[Ended] | None:
        """Go on with a batch, whoever sent it, until it is written down what became of its calls.

        Args:
            wait: or it is looked after once, and `None` is the answer if it has not ended or that cannot be told.

        Raises:
            StoreError, ModelError: as `carry`.
        """
        until = noted.made_at + self.terms.patience_s if wait else 0.0
        if noted.file and not noted.batch:
            noted = replace(noted, batch=await self._found(noted.file, until) or "")
            await self._ledger.batch_noted(noted.number, file=noted.file, batch=noted.batch)
        if not noted.batch:
            return await self._end(noted, {}, CallFailed("unreachable", "its batch was never made", retryable=True))
        if wait:
            self._at_provider.put(noted)
        try:
            state = await self._state_at_end(noted, until, wait=wait)
            if state is None:
                return None
            ended = await self._end(noted, await self._outcomes(state, until), self._missing(state))
        except _Abandoned as abandoned:
            if not wait:
                return None
            silent = CallFailed("timeout", f"the provider does not say what became of it: {abandoned}", retryable=False)
            ended = await self._end(noted, {}, silent, paid=True)
        self._at_provider.take(noted)
        return ended

    async def _make(self, noted: NotedBatch, requests: Sequence[Request]) -> NotedBatch:
        """Upload the file and make the batch.

        Raises:
            CallFailed, TokenpriorError: there is none.
        """
        pairs = zip(noted.calls, requests, strict=True)
        file = await self.api.upload(self.api.line(call.custom_id, request) for call, request in pairs)
        await self._ledger.batch_noted(noted.number, file=file, batch="")
        try:
            batch = await self.api.create(file)
        except CallFailed as failed:
            if failed.kind == "rate-limit" or failed.kind.startswith("http-4"):
                raise
            # The answer is lost, and with it whether there is a batch. A second one would be paid for too.
            await asyncio.sleep(self.terms.poll_s)
            found = await self._found(file, noted.made_at + self.terms.patience_s)
            if found is None:
                raise
            batch = found
        await self._ledger.batch_noted(noted.number, file=file, batch=batch)
        return replace(noted, file=file, batch=batch)

    async def _found(self, file: str, until: float) -> str | None:
        """The batch that was made of a file, if there is one."""
        while True:
            try:
                return await self.api.find(file)
            except CallFailed as failed:
                if time.time() > until + GRACE_S:
                    raise ModelError(f"{redact(self.api.name)}: does not list its batches: {failed}") from failed
                await asyncio.sleep(self._pause_s(failed))

    async def _state_at_end(self, noted: NotedBatch, until: float, *, wait: bool) -> BatchState | None:
        """The batch once it has ended; `None` where it has not, and nobody waits for it."""
        cancelled = False
        while True:
            pause_s = self.terms.poll_s
            try:
                state = await self.api.state(noted.batch)
                if state.ended:
                    return state
                if not wait:
                    return None
                said = f"it is {state.status}"
                if not cancelled and time.time() > until:
                    cancelled = True
                    with suppress(ModelError):  # there are servers that cannot
                        await self.api.cancel(noted.batch)
            except CallFailed as failed:
                said, pause_s = str(failed), self._pause_s(failed)
            if time.time() > until + GRACE_S:
                raise _Abandoned(said)
            self._at_provider.tell()
            await asyncio.sleep(pause_s)

    async def _outcomes(self, state: BatchState, until: float) -> dict[str, Reply | Exception]:
        """What the rows of an ended batch say, by `custom_id`."""
        while True:
            try:
                return {custom_id: outcome async for custom_id, outcome in self.api.rows(state)}
            except CallFailed as failed:
                if time.time() > until + GRACE_S:
                    raise _Abandoned(str(failed)) from failed
                await asyncio.sleep(self._pause_s(failed))

    def _pause_s(self, failed: CallFailed) -> float:
        return max(self.terms.poll_s, failed.retry_after_s or 0.0)

    def _missing(self, state: BatchState) -> Exception:
        """Why a call has no row."""
        match state.failure:
            case CallFailed(kind="rate-limit") as failed:
                # Until the provider has done some of what it has, asking again brings nothing.
                wait_s = FULL_POLLS * self.terms.poll_s
                return CallFailed("rate-limit", failed.detail, retryable=True, retry_after_s=wait_s)
            case None if state.status in ("expired", "cancelled"):
                return CallFailed("timeout", f"the batch {state.status} before its turn", retryable=False)
            case None:
                return CallFailed("batch", "the batch has no row for it", retryable=True)
            case failure:
                return failure

    async def _end(
        self, noted: NotedBatch, outcomes: Mapping[str, Reply | Exception], missing: Exception, *, paid: bool = False
    ) -> list[Ended]:
        """Write down what became of the calls of a batch.

        Args:
            missing: why a call that is not among the outcomes has none.
            paid: whether such a call may have been paid for.
        """
        made: list[Ended] = []
        ends: dict[int, CallEnd] = {}
        for call in noted.calls:
            outcome = outcomes.get(call.custom_id, missing)
            if isinstance(outcome, Reply):
                outcome = self.meter.counted(outcome, call.most)
                ended = Ended(outcome=outcome, charged=outcome.usage)
                ends[call.call] = CallEnd(reply=outcome, charged=ended.charged)
            else:
                # The provider charges what it finished.
                full = paid if outcome is missing else getattr(outcome, "kind", "") == "garbled"
                ended = Ended(outcome=outcome, charged=call.most if full else NOTHING)
                kind, detail = getattr(outcome, "kind", "error"), getattr(outcome, "detail", str(outcome))
                ends[call.call] = CallEnd(kind=kind, detail=detail, charged=ended.charged)
            made.append(ended)
        await self._ledger.batch_ended(noted.number, ends)
        return made


class _Abandoned(Exception):
    """Patience has come to its end, and nobody knows what became of the batch."""


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

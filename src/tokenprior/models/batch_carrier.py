"""Batch carrier: a batch on its way to the provider and back, whoever began it.

Order of events: the calls are written down as sent, with their batch, in one transaction; the file is uploaded, the
batch made, and each id noted as soon as it is known; the batch is asked after until it has ended; replies and failures
are written down in one transaction, and only then handed out.

So a run that is killed finds its batch again (`BatchCarrier.bring`), wherever it was cut off: a batch without a file
never left; one with a file is looked for among the provider's by that file; one with an id is asked after. A call is
never made again while its batch may still answer it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tokenprior.errors import ModelError
from tokenprior.models.base import BatchLedger, CallEnd, CallFailed, NotedBatch, Reply, Request
from tokenprior.models.batch_api import BatchApi, BatchState
from tokenprior.models.prices import NOTHING, Meter
from tokenprior.redact import redact
from tokenprior.rollout import Usage

FULL_POLLS = 20  # for so many polls nothing is sent to a provider that has as much as it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """How long is waited for what.

    Attributes:
        collect_s: seconds without a new call after which those that gathered are sent.
        least: calls that make a batch; fewer go the ordinary way.
        poll_s: seconds between two questions after a batch.
        patience_s: after which a batch is cancelled, and what is not done by then has failed.
        grace_s: in which a cancelled batch comes to its end; providers take ten minutes.
    """

    collect_s: float = 5.0
    least: int = 10
    poll_s: float = 30.0
    patience_s: float = 86_400.0
    grace_s: float = 1_800.0


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
        except (CallFailed, ModelError) as error:
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
        patience = _Patience(0.0, 0.0)
        if wait:
            patience = _Patience(noted.made_at + self.terms.patience_s, self.terms.grace_s)
        if noted.file and not noted.batch:
            noted = replace(noted, batch=await self._found(noted.file, patience) or "")
            await self._ledger.batch_noted(noted.number, file=noted.file, batch=noted.batch)
        if not noted.batch:
            return await self._end(noted, {}, CallFailed("unreachable", "its batch was never made", retryable=True))
        if wait:
            self._at_provider.put(noted)
        try:
            state = await self._state_at_end(noted.batch, patience)
            ended = await self._end(noted, await self._outcomes(state, patience), self._missing(state))
        except _Abandoned as abandoned:
            if not wait:
                return None
            silent = CallFailed("timeout", f"the provider does not say what became of it: {abandoned}", retryable=False)
            ended = await self._end(noted, {}, silent, paid=True)
        self._at_provider.take(noted)
        return ended

    async def _make(self, noted: NotedBatch, requests: Sequence[Request]) -> NotedBatch:
        """Upload the file and make the batch. Where the answer is lost, whether there is one is left open.

        Raises:
            CallFailed, ModelError: there is none.
        """
        pairs = zip(noted.calls, requests, strict=True)
        file = await self.api.upload(self.api.line(call.custom_id, request) for call, request in pairs)
        await self._ledger.batch_noted(noted.number, file=file, batch="")
        try:
            batch = await self.api.create(file)
        except CallFailed as failed:
            if failed.kind == "rate-limit" or failed.kind.startswith("http-4"):
                raise
            return replace(noted, file=file)
        await self._ledger.batch_noted(noted.number, file=file, batch=batch)
        return replace(noted, file=file, batch=batch)

    async def _found(self, file: str, patience: _Patience) -> str | None:
        """The batch that was made of a file, if there is one. A second one would be paid for too."""
        sure = False
        while True:
            try:
                found = await self.api.find(file)
                # What was asked for a moment ago may be in no list yet.
                if found or sure or patience.at_end:
                    return found
                sure, pause_s = True, self.terms.poll_s
            except CallFailed as failed:
                if patience.at_end:
                    raise ModelError(f"{redact(self.api.name)}: its batches cannot be listed: {failed}") from failed
                pause_s = self._pause_s(failed)
            await asyncio.sleep(pause_s)

    async def _state_at_end(self, batch: str, patience: _Patience) -> BatchState:
        """The batch once it has ended. One that takes too long is cancelled."""
        cancelled = False
        while True:
            pause_s = self.terms.poll_s
            try:
                state = await self.api.state(batch)
                if state.ended:
                    return state
                said = f"it is {state.status}"
                if patience.over and not patience.at_end and not cancelled:
                    cancelled = True
                    with suppress(ModelError):  # there are servers that cannot
                        await self.api.cancel(batch)
            except CallFailed as failed:
                said, pause_s = str(failed), self._pause_s(failed)
            if patience.at_end:
                raise _Abandoned(said)
            self._at_provider.tell()
            await asyncio.sleep(pause_s)

    async def _outcomes(self, state: BatchState, patience: _Patience) -> dict[str, Reply | Exception]:
        """What the rows of an ended batch say, by `custom_id`."""
        while True:
            try:
                return {custom_id: outcome async for custom_id, outcome in self.api.rows(state)}
            except CallFailed as failed:
                if patience.at_end:
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


class _Patience:
    """How long is waited for a batch.

    Args:
        until: seconds since 1970.
        grace_s: on top of it, in which a cancelled batch comes to its end; counted from when `at_end` is first asked,
            for the machine may have been asleep.
    """

    def __init__(self, until: float, grace_s: float) -> None:
        self._until, self._grace_s = until, grace_s
        self._over_since: float | None = None

    @property
    def over(self) -> bool:
        """Whether it is time to cancel."""
        return time.time() > self._until

    @property
    def at_end(self) -> bool:
        """Whether nothing more is waited for."""
        if not self.over:
            return False
        self._over_since = self._over_since or time.monotonic()
        return time.monotonic() - self._over_since >= self._grace_s


class _Abandoned(Exception):
    """Patience has come to its end, and nobody knows what became of the batch."""

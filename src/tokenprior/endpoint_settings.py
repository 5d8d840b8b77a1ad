"""Endpoint settings: how calls reach models, what they may cost, and what they do cost."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from tokenprior.models.batch_carrier import BatchTerms
from tokenprior.models.budget import Limits
from tokenprior.models.prices import Price
from tokenprior.models.retried import RetryPolicy
from tokenprior.settings import Count, Settings


class BudgetSettings(Settings):
    """Hard limits; `None` is none. Money, tokens and calls count over all invocations of a run, minutes over one."""

    usd: Annotated[float, Field(gt=0)] | None = None
    tokens: Count | None = None
    calls: Count | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None

    @property
    def limits(self) -> Limits:
        return Limits(usd=self.usd, tokens=self.tokens, calls=self.calls, minutes=self.minutes)


class PriceSettings(Settings):
    """US dollars for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached: Annotated[float, Field(ge=0)] | None = None

    @property
    def price(self) -> Price:
        return Price(input=self.input, output=self.output, cached=self.cached)


class BatchSettings(Settings):
    """Calls sent many at a time by the provider's batch API: about half the price, answered within hours.

    Attributes:
        models: those it holds for, as the config names them; `None` is all but the embedded one.
        collect_s: seconds without a new call after which those that came together are sent.
        least: calls that make a batch; fewer are sent the ordinary way at once, at the full price.
        poll_s: seconds between two questions after a batch.
        patience_hours: after which a batch is cancelled; what is not done by then has failed as a timeout.
        price_factor: the part of a model's price that a call in a batch costs.
    """

    models: tuple[str, ...] | None = None
    collect_s: Annotated[float, Field(gt=0)] = 5.0
    least: Count = 10
    poll_s: Annotated[float, Field(gt=0)] = 30.0
    patience_hours: Annotated[float, Field(gt=0)] = 24.0
    price_factor: Annotated[float, Field(gt=0, le=1)] = 0.5

    def holds_for(self, name: str) -> bool:
        """Whether the calls of a model go in batches, if it can have them."""
        return self.models is None or name in self.models

    @property
    def terms(self) -> BatchTerms:
        return BatchTerms(
            collect_s=self.collect_s, least=self.least, poll_s=self.poll_s, patience_s=self.patience_hours * 3600
        )


class EndpointSettings(Settings):
    """How calls reach models.

    Attributes:
        concurrency: the most calls in flight to one endpoint; `None` is 32, and for the embedded model its slots.
        attempts: tries of a call that fails for another reason than a rate limit.
        backoff_s: the wait before the second try; it doubles.
        patience_s: how long an endpoint may answer nothing but rate limits.
        key_variable: environment variable with the key of `http://...#model` endpoints.
        json_schema: hold replies of the learning model to a schema; `None` does so for the embedded model and OpenAI.
        warm: let one of the calls that begin with the same long text go first, a second or two ahead, so that the
            others find it in the provider's cache.
        slots: of the embedded model; `None` is what `tokenprior models tune` found best here, else 4.
        context: tokens of context of each slot of the embedded model.
        threads: of the embedded model; `None` is what was found best here, else one for each core.
        batch: whether calls go in batches: `true`, or settings of it; see docs/batch.md.
    """

    concurrency: Count | None = None
    attempts: Count = 5
    backoff_s: Annotated[float, Field(gt=0)] = 0.5
    patience_s: Annotated[float, Field(gt=0)] = 900.0
    key_variable: str | None = None
    json_schema: bool | None = None
    warm: bool = True
    slots: Count | None = None
    context: Annotated[int, Field(ge=512)] = 4_096
    threads: Count | None = None
    batch: BatchSettings | None = None

    @field_validator("batch", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return BatchSettings() if value else None
        if isinstance(value, str):
            raise ValueError("expected true, false, or keys such as `least: 10`")
        return value

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.attempts, backoff_s=self.backoff_s, patience_s=self.patience_s)

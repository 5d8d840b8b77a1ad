"""Endpoint settings: how calls reach models, what they may cost, and what they do cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

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


class EndpointSettings(Settings):
    """How calls reach models.

    Attributes:
        concurrency: the most calls in flight to one endpoint; `None` is 32, and for the embedded model its slots.
        attempts: tries of a call that fails for another reason than a rate limit.
        backoff_s: the wait before the second try; it doubles.
        patience_s: how long an endpoint may answer nothing but rate limits.
        key_variable: environment variable with the key of `http://...#model` endpoints.
        json_schema: hold replies of the learning model to a schema; `None` does so for the embedded model and OpenAI.
        slots: of the embedded model.
        context: tokens of context of each slot of the embedded model.
        threads: of the embedded model; `None` is one for each core.
    """

    concurrency: Count | None = None
    attempts: Count = 5
    backoff_s: Annotated[float, Field(gt=0)] = 0.5
    patience_s: Annotated[float, Field(gt=0)] = 900.0
    key_variable: str | None = None
    json_schema: bool | None = None
    slots: Count = 4
    context: Annotated[int, Field(ge=512)] = 4_096
    threads: Count | None = None

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(attempts=self.attempts, backoff_s=self.backoff_s, patience_s=self.patience_s)

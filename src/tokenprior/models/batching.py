"""Batching: which models of a run go in batches, and what earlier invocations of it left at providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from tokenprior.errors import ModelError
from tokenprior.flow import all_of
from tokenprior.models.base import BatchLedger, Model, NotedBatch
from tokenprior.models.batch_api import MOST_REQUESTS, BatchApi
from tokenprior.models.batch_carrier import AtProvider, BatchCarrier
from tokenprior.models.batched import BatchedModel
from tokenprior.models.budget import Budget
from tokenprior.models.prices import Meter, Price
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.redact import redact

if TYPE_CHECKING:
    from tokenprior.endpoint_settings import EndpointSettings


class OpenApi(Protocol):
    """Gives the batches of a model."""

    def __call__(self, name: str, settings: EndpointSettings, *, by_program: bool = False) -> BatchApi: ...


class Batching:
    """The batches of a run.

    Args:
        settings: of the endpoints; without `batch` no new ones are made.
        ledger: where they are written down.
        api: as `connect.batch_api`.
        at_provider: is kept up to date.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        ledger: BatchLedger,
        budget: Budget,
        prices: Mapping[str, Price],
        policy: RetryPolicy,
        api: OpenApi,
        at_provider: AtProvider,
    ) -> None:
        self._endpoint, self._settings, self._ledger, self._budget = settings, settings.batch, ledger, budget
        self._prices, self._policy, self._api, self._at_provider = prices, policy, api, at_provider
        self._carriers: dict[tuple[str, bool], BatchCarrier] = {}
        self._models: list[BatchedModel] = []

    async def aclose(self) -> None:
        """Wait for no batch any more, and close all connections."""
        await asyncio.gather(*(model.aclose() for model in self._models))
        await asyncio.gather(*(carrier.api.aclose() for carrier in self._carriers.values()))

    def model(self, name: str, *, by_program: bool = False) -> Model | None:
        """The model whose calls go in batches, behind its retries; `None` where they do not.

        Raises:
            ConfigError: no such model, no key for it, or it has no batches in OpenAI's form.
        """
        settings = self._settings
        if settings is None or not settings.holds_for(name):
            return None
        model = BatchedModel(self._carrier(name, by_program), self._budget)
        self._models.append(model)
        # No number of calls in flight is too high for a batch, until a provider says so.
        return RetriedModel(model, Limit(MOST_REQUESTS), replace(self._policy, patience_s=settings.terms.patience_s))

    async def take_up(self, names: Iterable[str]) -> None:
        """Go on with the batches that earlier invocations of the run left at providers, until their calls are in the
        ledger. Where no batches are made any more, what has ended is written down, and nothing is waited for.

        Args:
            names: of the models that the run may call.

        Raises:
            ConfigError: a model has no key any more.
            ModelError: a provider does not know a batch.
            StoreError: it could not be written down.
        """
        known = {redact(name): name for name in names}
        left = await self._ledger.batches_left()
        await all_of(self._take_up(known[noted.model], noted) for noted in left if noted.model in known)

    async def _take_up(self, name: str, noted: NotedBatch) -> None:
        wait = self._settings is not None
        try:
            await self._carrier(name, noted.by_program).bring(noted, wait=wait)
        except ModelError:
            if wait:
                raise

    def _carrier(self, name: str, by_program: bool) -> BatchCarrier:
        if (name, by_program) not in self._carriers:
            from tokenprior.endpoint_settings import BatchSettings

            settings = self._settings or BatchSettings()
            self._carriers[name, by_program] = BatchCarrier(
                self._api(name, self._endpoint, by_program=by_program),
                meter=Meter(name=name, prices=self._prices, share=settings.price_factor),
                ledger=self._ledger,
                terms=settings.terms,
                at_provider=self._at_provider,
            )
        return self._carriers[name, by_program]

"""Connect: from a model's name in the config to a model that is limited, retried, budgeted and recorded.

From the outside in: `ReplayedModel` (the ledger answers what it can), `WarmedModel` (of calls that begin alike one goes
first), `RetriedModel` (one limit per endpoint), `MeteredModel` (budget and ledger see every try), and the endpoint
itself. Where calls go in batches, `RoutedModel` stands behind the first, and sends each to `BatchedModel` behind
retries of its own, or the ordinary way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprior.errors import ConfigError
from tokenprior.models.base import BatchLedger, Ledger, Model, address_of
from tokenprior.models.batch_carrier import AtProvider
from tokenprior.models.batched import RoutedModel
from tokenprior.models.batching import Batching
from tokenprior.models.budget import Budget
from tokenprior.models.prices import Price
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.warmed import SentModel, WarmedModel, Warmth
from tokenprior.redact import redact
from tokenprior.text import shorten

if TYPE_CHECKING:
    from tokenprior.endpoint_settings import EndpointSettings
    from tokenprior.models.batch_api import BatchApi
    from tokenprior.models.embedded import EmbeddedServer
    from tokenprior.models.slots import PinnedSlots
    from tokenprior.models.tuning import Tuning

DEFAULT_CONCURRENCY = 32


def is_embedded(name: str) -> bool:
    """Whether a name means a model that we serve ourselves: `embedded`, `embedded-small`, `embedded:NAME`."""
    return name in ("embedded", "embedded-small") or name.startswith("embedded:")


async def check_name(name: str, settings: EndpointSettings, *, by_program: bool = False) -> None:
    """Raise what opening the model of this name would, without asking it or fetching it.

    Args:
        by_program: whether it is for requests that programs make themselves.

    Raises:
        ConfigError: no such model, no key for it, or it does not speak what a program does.
    """
    from tokenprior.models.catalog import find
    from tokenprior.models.forward import ForwardModel
    from tokenprior.models.provider import ProviderModel

    if is_embedded(name):
        find(name.removeprefix("embedded:"))
    elif "://" in name:
        ForwardModel.at(name, key_variable=settings.key_variable)
    elif not by_program:
        await ProviderModel(name).aclose()
    else:
        _provider_address(name)
    if settings.batch and settings.batch.holds_for(name) and not is_embedded(name):
        batch_api(name, settings, by_program=by_program)


class Connections:
    """Opens models by name, each endpoint once. Use as an async context manager; leaving it closes all.

    Args:
        batches: where batches are written down; without it none are made, whatever the settings say.
        at_provider: is kept up to date with the batches that are waited for.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        ledger: Ledger,
        budget: Budget,
        prices: Mapping[str, Price],
        policy: RetryPolicy,
        on_pull: Callable[[str, int, int], None] | None = None,
        batches: BatchLedger | None = None,
        at_provider: AtProvider | None = None,
    ) -> None:
        self._settings, self._ledger, self._budget = settings, ledger, budget
        self._prices, self._policy, self._on_pull = prices, policy, on_pull
        self._batching: Batching | None = None
        if batches is not None:
            self._batching = Batching(settings, batches, budget, prices, policy, batch_api, at_provider or AtProvider())
        self._limits: dict[str, Limit] = {}
        self._open: dict[str, Model] = {}
        self._servers: dict[str, tuple[EmbeddedServer, PinnedSlots]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Connections:
        if self._batching:
            self._stack.push_async_callback(self._batching.aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def model(self, name: str) -> Model:
        """The model of this name.

        Raises:
            ConfigError: no such model, or no key for it.
            EmbeddedModelError: the embedded model cannot be had.
        """
        if name not in self._open:
            self._open[name] = self.wrap(await self._endpoint(name), self._batched(name))
        return self._open[name]

    async def forward(self, name: str) -> Model:
        """The model of this name for requests that programs make themselves; see `ForwardModel`.

        Args:
            name: as for `model`; `*` in place of the model's own name is whatever the program asks for.

        Raises:
            ConfigError: no such model, no key for it, or it does not speak OpenAI's chat completions.
            EmbeddedModelError: the embedded model cannot be had.
        """
        key = f"forward {name}"
        if key not in self._open:
            self._open[key] = self.wrap(await self._forwarded(name), self._batched(name, by_program=True))
        return self._open[key]

    async def _forwarded(self, name: str) -> Model:
        if is_embedded(name) or "://" in name:
            return await self._address(name)
        from tokenprior.models.forward import ForwardModel

        base_url, provider_key = _provider_address(name)
        model = ForwardModel(base_url, name=name, key=provider_key)
        self._stack.push_async_callback(model.aclose)
        return model

    def wrap(self, endpoint: Model, batched: Model | None = None) -> Model:
        """A bare endpoint behind limit, retries, budget and ledger.

        Args:
            batched: where calls go that can travel in a batch.
        """
        metered: Model = MeteredModel(endpoint, self._ledger, self._budget, self._prices)
        warmth = Warmth() if self._settings.warm and not is_embedded(endpoint.name) else None
        if warmth:
            metered = SentModel(metered, warmth)
        asked: Model = RetriedModel(metered, self._limit(endpoint.name), self._policy)
        if warmth:
            asked = WarmedModel(asked, warmth)
        if batched is not None:
            asked = RoutedModel(batched, asked)
        return ReplayedModel(asked, self._ledger)

    async def take_up(self, names: Iterable[str]) -> None:
        """See `Batching.take_up`; to be called before anything is asked."""
        if self._batching:
            await self._batching.take_up(names)

    def _batched(self, name: str, *, by_program: bool = False) -> Model | None:
        if self._batching is None or is_embedded(name):
            return None
        return self._batching.model(name, by_program=by_program)

    def _limit(self, name: str) -> Limit:
        """One limit an endpoint: an address, a provider, or the embedded server, whatever models it serves."""
        endpoint = name.split("#", 1)[0] if "://" in name else name.split(":", 1)[0]
        slots = self._tuning(name).slots if is_embedded(name) else DEFAULT_CONCURRENCY
        concurrency = self._settings.concurrency or slots
        return self._limits.setdefault(endpoint, Limit(concurrency))

    async def _endpoint(self, name: str) -> Model:
        if is_embedded(name) or "://" in name:
            return await self._address(name)
        from tokenprior.models.provider import ProviderModel

        schema = self._settings.json_schema
        model = ProviderModel(name, json_schema=name.startswith("openai") if schema is None else schema)
        self._stack.push_async_callback(model.aclose)
        return model

    async def _address(self, name: str) -> Model:
        """An address, or the embedded server, whose address is another one after it was started anew."""
        from tokenprior.models.forward import ForwardModel

        if is_embedded(name):
            server, pinned, full = await self._embedded_server(name)
            model = ForwardModel(server.ensure, name=full, model="embedded", json_schema=True, place=pinned.place)
        else:
            settings = self._settings
            model = ForwardModel.at(name, key_variable=settings.key_variable, json_schema=bool(settings.json_schema))
        self._stack.push_async_callback(model.aclose)
        return model

    def _tuning(self, name: str) -> Tuning:
        """How an embedded model is served: as the config says, else as it was measured, else as it comes."""
        from tokenprior.models.catalog import find
        from tokenprior.models.pull import default_cache_dir
        from tokenprior.models.tuning import Tuning, kept_tuning

        settings = self._settings
        tuning = kept_tuning(find(name.removeprefix("embedded:")).name, default_cache_dir()) or Tuning()
        return replace(tuning, slots=settings.slots or tuning.slots, threads=settings.threads or tuning.threads)

    async def _embedded_server(self, name: str) -> tuple[EmbeddedServer, PinnedSlots, str]:
        """The server of an embedded model, one however it is used, its slots, and the model's full name."""
        import asyncio

        from tokenprior.models.catalog import find
        from tokenprior.models.embedded import EmbeddedServer
        from tokenprior.models.pull import PullProgress, pull
        from tokenprior.models.slots import PinnedSlots, new_folder

        wanted = find(name.removeprefix("embedded:"))
        # The name says which weights answered, not how the user spelled it: the ledger goes by it.
        full = f"embedded:{wanted.name}"
        if full not in self._servers:

            def told(progress: PullProgress) -> None:
                if self._on_pull:
                    self._on_pull(progress.what, progress.done_bytes, progress.total_bytes)

            path = await asyncio.to_thread(pull, wanted, on_progress=told)
            tuning = self._tuning(name)
            folder = self._stack.enter_context(new_folder())
            server = EmbeddedServer(
                path,
                slots=tuning.slots,
                context_per_slot=self._settings.context,
                threads=tuning.threads,
                batch=tuning.batch,
                slot_folder=folder,
            )
            await self._stack.enter_async_context(server)
            pinned = PinnedSlots(server.ensure, count=tuning.slots, folder=Path(folder))
            self._servers[full] = (server, await self._stack.enter_async_context(pinned))
        return *self._servers[full], full


def batch_api(name: str, settings: EndpointSettings, *, by_program: bool = False) -> BatchApi:
    """The batches of a model.

    Args:
        by_program: whether they are of requests that programs make themselves.

    Raises:
        ConfigError: no such model, no key for it, or it does not speak OpenAI's chat completions.
    """
    from tokenprior.models.batch_api import BatchApi

    schema = settings.json_schema
    if "://" in name:
        base_url, model, key = address_of(name, settings.key_variable)
    else:
        base_url, key = _provider_address(name, "endpoint.batch, unless its models leave this one out, needs")
        model = name.partition(":")[2]
        schema = name.startswith("openai") if schema is None else schema
    return BatchApi(name, base_url=base_url, model=model, key=key, json_schema=bool(schema), by_program=by_program)


def _provider_address(name: str, needs: str = "a program's calls need") -> tuple[str, str]:
    """Where a provider of pydantic-ai is reached, and its key from the environment.

    Args:
        needs: who wants to know, for the message of an error.
    """
    from openai import AsyncOpenAI
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.providers import infer_provider

    try:
        provider = infer_provider(name.partition(":")[0])
    except (UserError, ValueError, ImportError) as error:
        raise ConfigError(f"model {name!r}: {shorten(redact(str(error)), 300)}") from error
    client = provider.client
    if not isinstance(client, AsyncOpenAI):
        raise ConfigError(
            f"model {name!r}: {needs} an endpoint that speaks OpenAI's chat completions, and this "
            "provider does not: name its OpenAI-compatible address as http://HOST/v1#MODEL"
        )
    return str(client.base_url).rstrip("/"), client.api_key

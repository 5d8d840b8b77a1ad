"""Connect: from a model's name in the config to a model that is limited, retried, budgeted and recorded.

From the outside in: `ReplayedModel` (the ledger answers what it can), `RetriedModel` (one limit per endpoint),
`MeteredModel` (budget and ledger see every try), and the endpoint itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tokenprior.errors import ConfigError
from tokenprior.models.base import Ledger, Model
from tokenprior.models.budget import Budget
from tokenprior.models.prices import Price
from tokenprior.models.recorded import MeteredModel, ReplayedModel
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.redact import redact
from tokenprior.text import shorten

if TYPE_CHECKING:
    from tokenprior.endpoint_settings import EndpointSettings
    from tokenprior.models.embedded import EmbeddedServer

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


class Connections:
    """Opens models by name, each endpoint once. Use as an async context manager; leaving it closes all."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        ledger: Ledger,
        budget: Budget,
        prices: Mapping[str, Price],
        policy: RetryPolicy,
        on_pull: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._settings, self._ledger, self._budget = settings, ledger, budget
        self._prices, self._policy, self._on_pull = prices, policy, on_pull
        self._limits: dict[str, Limit] = {}
        self._open: dict[str, Model] = {}
        self._servers: dict[str, EmbeddedServer] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Connections:
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
            self._open[name] = self.wrap(await self._endpoint(name))
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
            self._open[key] = self.wrap(await self._forwarded(name))
        return self._open[key]

    async def _forwarded(self, name: str) -> Model:
        if is_embedded(name) or "://" in name:
            return await self._address(name)
        from tokenprior.models.forward import ForwardModel

        base_url, provider_key = _provider_address(name)
        model = ForwardModel(base_url, name=name, key=provider_key)
        self._stack.push_async_callback(model.aclose)
        return model

    def wrap(self, endpoint: Model) -> Model:
        """A bare endpoint behind limit, retries, budget and ledger."""
        metered = MeteredModel(endpoint, self._ledger, self._budget, self._prices)
        limited = RetriedModel(metered, self._limit(endpoint.name), self._policy)
        return ReplayedModel(limited, self._ledger)

    def _limit(self, name: str) -> Limit:
        """One limit an endpoint: an address, a provider, or the embedded server, whatever models it serves."""
        endpoint = name.split("#", 1)[0] if "://" in name else name.split(":", 1)[0]
        slots = self._settings.slots if is_embedded(name) else DEFAULT_CONCURRENCY
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
            server, full = await self._embedded_server(name)
            model = ForwardModel(server.ensure, name=full, model="embedded", json_schema=True)
        else:
            settings = self._settings
            model = ForwardModel.at(name, key_variable=settings.key_variable, json_schema=bool(settings.json_schema))
        self._stack.push_async_callback(model.aclose)
        return model

    async def _embedded_server(self, name: str) -> tuple[EmbeddedServer, str]:
        """The server of an embedded model, one however it is used, and the model's full name."""
        import asyncio

        from tokenprior.models.catalog import find
        from tokenprior.models.embedded import EmbeddedServer
        from tokenprior.models.pull import PullProgress, pull

        wanted = find(name.removeprefix("embedded:"))
        # The name says which weights answered, not how the user spelled it: the ledger goes by it.
        full = f"embedded:{wanted.name}"
        if full not in self._servers:

            def told(progress: PullProgress) -> None:
                if self._on_pull:
                    self._on_pull(progress.what, progress.done_bytes, progress.total_bytes)

            path = await asyncio.to_thread(pull, wanted, on_progress=told)
            server = EmbeddedServer(
                path,
                slots=self._settings.slots,
                context_per_slot=self._settings.context,
                threads=self._settings.threads,
            )
            self._servers[full] = await self._stack.enter_async_context(server)
        return self._servers[full], full


def _provider_address(name: str) -> tuple[str, str]:
    """Where a provider of pydantic-ai is reached, and its key from the environment."""
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
            f"model {name!r}: a program's calls need an endpoint that speaks OpenAI's chat completions, and this "
            "provider does not: name its OpenAI-compatible address as http://HOST/v1#MODEL"
        )
    return str(client.base_url).rstrip("/"), client.api_key

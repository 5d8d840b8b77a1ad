"""Search: the tool that asks a search service."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, get_args

from tokenprior.errors import ConfigError
from tokenprior.redact import redact
from tokenprior.task import Task, content_hash
from tokenprior.tools.base import ToolSession, ToolSpec
from tokenprior.tools.engines import SERVICES, DdgsEngine, Engine, EngineName, HttpEngine
from tokenprior.tools.pagetext import MOST_HITS, asked, listing, search_spec

RULE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Searches the web. The key stays in the environment: no field, fingerprint or message holds it.

    Attributes:
        engine: which service.
        count: how many hits where a call does not say; 1 to 20.
        address: base URL. SearXNG needs one; for others it stands in place of their own, for a proxy of theirs.
        key_variable: environment variable of the key; by default TAVILY_API_KEY, SERPER_API_KEY or BRAVE_API_KEY.
        timeout_s: for one search with all its tries and waits.

    Raises:
        ConfigError: a setting that does not fit the engine, or no key in the environment.
        MissingExtra: the engine is `ddgs`, and it is not installed.
    """

    engine: EngineName
    count: int = 5
    address: str | None = None
    key_variable: str | None = None
    timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise ConfigError(f"search: engine is {self.engine!r}, expected one of {', '.join(get_args(EngineName))}")
        if not 1 <= self.count <= MOST_HITS:
            raise ConfigError(f"search: count is {self.count}, expected 1 to {MOST_HITS}")
        if not self.timeout_s > 0:
            raise ConfigError(f"search: timeout_s is {self.timeout_s}, expected more than 0")
        if self.engine == "ddgs":
            if self.address or self.key_variable:
                raise ConfigError("search: ddgs has no address and no key: leave address and key_variable out")
            DdgsEngine(timeout_s=self.timeout_s)
            return
        if self.engine == "searxng" and (not self.address or self.key_variable):
            raise ConfigError(
                "search: searxng needs an address, such as http://127.0.0.1:8888, and has no key_variable"
            )
        if self.address and not re.fullmatch(r"https?://[^\s?#]+", self.address):
            raise ConfigError(f"search: address is {redact(self.address)!r}, expected http(s)://HOST without a query")
        self._key()

    @property
    def spec(self) -> ToolSpec:
        return search_spec(self.count)

    @property
    def fingerprint(self) -> str:
        return content_hash(["search", RULE, self.engine, self.count, self.address])

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """See `Tool.session`. Its connections are closed at the end."""
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ToolSession]:
        if self.engine == "ddgs":
            yield _Searching(DdgsEngine(timeout_s=self.timeout_s), self.count)
            return
        from aiohttp import ClientSession, ClientTimeout, DummyCookieJar

        address = self.address or SERVICES[self.engine].address or ""
        async with ClientSession(
            trust_env=False, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None)
        ) as session:
            engine = HttpEngine(session, self.engine, address=address, key=self._key(), timeout_s=self.timeout_s)
            yield _Searching(engine, self.count)

    def _key(self) -> str:
        variable = self.key_variable or SERVICES[self.engine].key_variable
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ConfigError(f"search: {self.engine} needs a key: the environment variable {variable} is not set")
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise ConfigError(f"search: what stands in {variable} is no key: it holds spaces or other letters")
        return key


class _Searching:
    """The searches of one attempt."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine, self._count = engine, count

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """See `ToolSession.call`."""
        query = asked(arguments["query"])
        count = min(MOST_HITS, max(1, int(arguments.get("count") or self._count)))
        return listing(query, await self._engine.search(query, count))

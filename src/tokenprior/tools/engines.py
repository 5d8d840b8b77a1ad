"""Engines: search services behind one method, each as its own documents describe it.

Tavily: POST /search, `Authorization: Bearer`. Serper: POST /search, `X-API-KEY`. Brave: GET /res/v1/web/search,
`X-Subscription-Token`. SearXNG: GET /search?format=json, which its settings have to allow. ddgs: a package that reads
the result pages of several engines, without a key.

429 and 5xx are tried again, after as long as the service asks for. Redirects are not followed (the key would go along)
and proxies of the environment are not used (but by ddgs, which brings its own HTTP client).
"""

from __future__ import annotations

import asyncio
import html
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tokenprior.errors import ConfigError, MissingExtra
from tokenprior.redact import redact
from tokenprior.text import shorten
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.fetch import USER_AGENT
from tokenprior.tools.pagetext import Hit

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

EngineName = Literal["tavily", "serper", "brave", "searxng", "ddgs"]

TRIES = 3
BACKOFF_S = 0.5
MAX_BYTES = 2_000_000


class Engine(Protocol):
    """Something that searches."""

    async def search(self, query: str, count: int) -> list[Hit]:
        """At most `count` hits, the best first.

        Raises:
            ToolFailed: the search brought nothing; the text says why, without a secret.
            ConfigError: the service refuses the key.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    method: Literal["GET", "POST"]
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is particular to one service.

    Attributes:
        address: where it is; `None` if every user has one of their own.
        key_variable: environment variable of its key; `None` if it has no key.
        ask: query, count and key as a request.
        rows: the hits inside of a reply: the path to their list, and the fields of title, URL and text.
        is_marked_up: whether its texts hold HTML.
    """

    address: str | None
    key_variable: str | None
    ask: Callable[[str, int, str], _Ask]
    rows: tuple[tuple[str, ...], str, str, str]
    is_marked_up: bool = False


SERVICES: dict[EngineName, Service] = {
    "tavily": Service(
        address="https://api.tavily.com",
        key_variable="TAVILY_API_KEY",
        ask=lambda query, count, key: _Ask(
            method="POST",
            path="/search",
            headers={"Authorization": f"Bearer {key}"},
            body={"query": query, "max_results": count, "search_depth": "basic"},
        ),
        rows=(("results",), "title", "url", "content"),
    ),
    "serper": Service(
        address="https://google.serper.dev",
        key_variable="SERPER_API_KEY",
        ask=lambda query, count, key: _Ask(
            method="POST", path="/search", headers={"X-API-KEY": key}, body={"q": query, "num": count}
        ),
        rows=(("organic",), "title", "link", "snippet"),
    ),
    "brave": Service(
        address="https://api.search.brave.com",
        key_variable="BRAVE_API_KEY",
        ask=lambda query, count, key: _Ask(
            method="GET",
            path="/res/v1/web/search",
            headers={"X-Subscription-Token": key},
            # More than 50 words are refused.
            params={"q": " ".join(query.split()[:50]), "count": str(count), "text_decorations": "false"},
        ),
        rows=(("web", "results"), "title", "url", "description"),
        is_marked_up=True,
    ),
    "searxng": Service(
        address=None,
        key_variable=None,
        ask=lambda query, count, key: _Ask(method="GET", path="/search", params={"q": query, "format": "json"}),
        rows=(("results",), "title", "url", "content"),
    ),
}


class HttpEngine:
    """A service on the network.

    Args:
        session: makes the requests; whoever gave it closes it.
        name: which service.
        address: its base URL.
        key: sent as the service wants it; empty for none.
        timeout_s: for one search with all its tries and waits.
    """

    def __init__(self, session: ClientSession, name: EngineName, *, address: str, key: str, timeout_s: float) -> None:
        self._session, self._name, self._service = session, name, SERVICES[name]
        self._address, self._key, self._timeout_s = address.rstrip("/"), key, timeout_s

    async def search(self, query: str, count: int) -> list[Hit]:
        """See `Engine.search`."""
        from aiohttp import ClientError

        ask = self._service.ask(query, count, self._key)
        until = time.monotonic() + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s):
                for tried in range(1, TRIES + 1):
                    try:
                        reply = await self._reply(ask)
                    except _Again as again:
                        wait_s = again.wait_s
                        if wait_s is None:
                            wait_s = BACKOFF_S * 2 ** (tried - 1) * random.uniform(0.5, 1.5)  # not all at once
                        if tried == TRIES or time.monotonic() + wait_s > until:
                            raise ToolFailed(str(again)) from again
                        await asyncio.sleep(wait_s)
                    else:
                        return self._hits(reply)[:count]
        except TimeoutError as error:
            raise ToolFailed(f"search with {self._name}: no reply within {self._timeout_s:g} s") from error
        except (ClientError, OSError, ValueError) as error:
            raise ToolFailed(f"search with {self._name}: {self._safe(str(error)) or type(error).__name__}") from error
        raise AssertionError("the last try returns or raises")

    async def _reply(self, ask: _Ask) -> Any:
        async with self._session.request(
            ask.method,
            self._address + ask.path,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", **ask.headers},
            params=ask.params,
            json=ask.body,
            allow_redirects=False,
        ) as response:
            body = await _bounded(response)
            status = response.status
            if status == 200:
                try:
                    return json.loads(body)
                except (ValueError, RecursionError) as error:
                    raise ToolFailed(f"search with {self._name}: the reply is not JSON{self._hint(status)}") from error
            said = self._safe(body.decode("utf-8", "replace"))
            words = f"search with {self._name}: HTTP {status}{self._hint(status)}{': ' if said else ''}{said}"
            if status == 429 or status >= 500:
                raise _Again(words, retry_after_s(response.headers.get("Retry-After", "")))
            if status == 401:  # no search of the run can bring anything
                raise ConfigError(words)
            raise ToolFailed(words)

    def _hint(self, status: int) -> str:
        if status in (200, 403) and self._name == "searxng":
            return " (its settings.yml has to list json under search.formats)"
        if status in (401, 403):
            return " (the key is wrong, or may not do this)"
        if 300 <= status < 400:
            return " (it redirects, and a key is not sent on: give the address itself)"
        return ""

    def _safe(self, text: str) -> str:
        """What a service says, short and without the key: some repeat it."""
        if self._key:
            text = text.replace(self._key, "[redacted]")
        return shorten(redact(text), 160)

    def _hits(self, reply: Any) -> list[Hit]:
        path, title, url, text = self._service.rows
        rows = reply
        for name in path:
            rows = rows.get(name) if isinstance(rows, dict) else None
        # Brave leaves `web` out where it found nothing.
        return _hits_of(rows or [], title, url, text, self._service.is_marked_up)


class DdgsEngine:
    """The package ddgs, in a thread.

    Raises:
        MissingExtra: it is not installed.
    """

    def __init__(self, *, timeout_s: float) -> None:
        try:
            import ddgs  # noqa: F401 (only whether it is there)
        except ImportError as error:
            raise MissingExtra("ddgs", "web", "search with ddgs") from error
        self._timeout_s = timeout_s

    async def search(self, query: str, count: int) -> list[Hit]:
        """See `Engine.search`. A thread that is over its time ends by itself, when its requests do."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return _hits_of(await asyncio.to_thread(self._rows, query, count), "title", "href", "body")[:count]
        except TimeoutError as error:
            raise ToolFailed(f"search with ddgs: no reply within {self._timeout_s:g} s") from error

    def _rows(self, query: str, count: int) -> list[dict[str, Any]]:
        from ddgs import DDGS
        from ddgs.exceptions import DDGSException

        try:
            return DDGS(timeout=max(1, round(self._timeout_s))).text(query, max_results=count)
        except DDGSException as error:
            if "no results" in str(error).casefold():
                return []
            raise ToolFailed(f"search with ddgs: {shorten(redact(str(error)), 160)}") from error
        except Exception as error:  # its HTTP client and its parsers raise what they like
            raise ToolFailed(f"search with ddgs: {type(error).__name__}") from error


class _Again(Exception):
    def __init__(self, words: str, wait_s: float | None) -> None:
        self.wait_s = wait_s
        super().__init__(words)


async def _bounded(response: ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise ToolFailed(f"the reply of the search is larger than {MAX_BYTES} bytes")
    return bytes(body)


def _hits_of(rows: Any, title: str, url: str, text: str, is_marked_up: bool = False) -> list[Hit]:
    """The rows that are hits; those without an address to read, or with one beyond 2000 characters, are left out."""
    plain = _plain if is_marked_up else str
    return [
        Hit(title=plain(row.get(title) or ""), url=str(row[url]), text=plain(row.get(text) or ""))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and re.fullmatch(r"https?://\S{1,2000}", str(row.get(url) or ""))
    ]


def _plain(text: object) -> str:
    return html.unescape(re.sub(r"</?(?:strong|b|em|i)>", "", str(text)))


def retry_after_s(header: str) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or a date; `None` if it says nothing."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    header = header.strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", header):
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())

"""Page: the tool that reads a page of the web.

Order of events: the address is checked, robots.txt is asked, the body comes within its limits, a process of its own
turns HTML into text, and the model gets the part that it asked for. What was read stays until the attempt ends, so that
the parts of one page fit together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, get_args

from tokenprior.errors import ConfigError
from tokenprior.task import Task, content_hash
from tokenprior.tools.address import Guard, allowed_hosts
from tokenprior.tools.base import ToolFailed, ToolSession, ToolSpec
from tokenprior.tools.fetch import Fetch, Fetched, opened
from tokenprior.tools.markdown import Extract, converted, is_html, is_readable, need
from tokenprior.tools.pagetext import clean, decode, part, read_page_spec
from tokenprior.tools.robots import Robots

RULE = 1
_KEPT_PAGES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPage:
    """Reads a page: GET, http and https, text only, the public internet only.

    Attributes:
        page_chars: most characters of one part; at least 200.
        max_bytes: most bytes of a page, as sent and as unpacked; larger pages are refused.
        timeout_s: for fetching a page, redirects and robots.txt included; turning it into text may take as long again.
        allow: hosts that may be private, as `wiki.intranet` (its ports 80 and 443) or `127.0.0.1:8080`.
        robots: whether robots.txt is asked and kept.
        extract: `all` the text of a page, or its `main` text, as trafilatura finds it.

    Raises:
        ConfigError: a setting out of range, or an entry of `allow` that is no host.
        MissingExtra: what turns pages into text is not installed.
    """

    page_chars: int = 6_000
    max_bytes: int = 2_000_000
    timeout_s: float = 20.0
    allow: tuple[str, ...] = ()
    robots: bool = True
    extract: Extract = "all"

    def __post_init__(self) -> None:
        if self.page_chars < 200:
            raise ConfigError(f"read_page: page_chars is {self.page_chars}, expected 200 or more")
        if self.max_bytes < 1 or not self.timeout_s > 0:
            raise ConfigError("read_page: max_bytes and timeout_s must be more than 0")
        if self.extract not in get_args(Extract):
            raise ConfigError(f"read_page: extract is {self.extract!r}, expected one of {', '.join(get_args(Extract))}")
        allowed_hosts(self.allow)
        need(self.extract)

    @property
    def spec(self) -> ToolSpec:
        return read_page_spec()

    @property
    def fingerprint(self) -> str:
        return content_hash(
            ["read_page", RULE, self.page_chars, self.max_bytes, sorted(self.allow), self.robots, self.extract]
        )

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """See `Tool.session`. Its connections are closed at the end."""
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ToolSession]:
        async with opened(Guard(self.allow)) as fetch:
            yield _Reading(self, fetch)


class _Reading:
    """The pages of one attempt."""

    def __init__(self, tool: ReadPage, fetch: Fetch) -> None:
        self._tool, self._fetch = tool, fetch
        self._robots = Robots(fetch, timeout_s=tool.timeout_s) if tool.robots else None
        self._read: dict[str, tuple[str, str]] = {}

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """See `ToolSession.call`."""
        asked = str(arguments["url"]).strip()
        if asked not in self._read:
            found = await self._fetch.get(
                asked,
                timeout_s=self._tool.timeout_s,
                max_bytes=self._tool.max_bytes,
                is_read=is_readable,
                before=self._robots.check if self._robots else None,
            )
            if not 200 <= found.status < 300:
                raise ToolFailed(f"{found.url}: HTTP {found.status}{_MEANT.get(found.status, '')}")
            text = await asyncio.to_thread(self._text, found)
            while len(self._read) >= _KEPT_PAGES:
                del self._read[next(iter(self._read))]
            self._read[asked] = (found.url, text)
        url, text = self._read[asked]
        return part(url, text, page=int(arguments.get("page") or 1), page_chars=self._tool.page_chars)

    def _text(self, found: Fetched) -> str:
        if not is_html(found.media_type):
            return clean(decode(found.body, found.charset)).strip()
        return converted(
            found.body,
            url=found.url,
            charset=found.charset,
            extract=self._tool.extract,
            timeout_s=self._tool.timeout_s,
        )


_MEANT = {
    401: " (it asks for a login)",
    403: " (it does not let us read this)",
    404: " (there is no such page)",
    410: " (this page is gone)",
    429: " (too many requests: try another page first)",
}

"""Robots: what the owner of a site lets programs read.

Source: RFC 9309. A robots.txt that is not there (400 to 499) allows everything; one that cannot be had (500 and above,
no connection, a refused address) allows nothing. Departures, both of `urllib.robotparser`: the first rule that fits
counts and not the longest, and `*` and `$` inside of a path stand for themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.robotparser import RobotFileParser

from tokenprior.tools.base import ToolFailed
from tokenprior.tools.fetch import USER_AGENT, Fetch

if TYPE_CHECKING:
    from yarl import URL

MAX_BYTES = 512_000  # RFC 9309 asks for 500 KiB at least; what is beyond is not read


class Robots:
    """The rules of each site that an attempt meets, asked for once.

    Args:
        fetch: asks for them; the guard holds for robots.txt too.
        timeout_s: for each of them.
    """

    def __init__(self, fetch: Fetch, *, timeout_s: float) -> None:
        self._fetch, self._timeout_s = fetch, timeout_s
        self._sites: dict[str, RobotFileParser | str] = {}

    async def check(self, url: URL) -> None:
        """Pass if the site lets us read this address.

        Raises:
            ToolFailed: it does not, or its rules cannot be had.
        """
        site = str(url.origin())
        if site not in self._sites:
            self._sites[site] = await self._rules(site)
        rules = self._sites[site]
        if isinstance(rules, str):
            raise ToolFailed(f"refused: the robots.txt of this site cannot be had ({rules}), so none of it is read")
        if not rules.can_fetch(USER_AGENT, str(url)):
            raise ToolFailed("refused: the robots.txt of this site does not allow programs to read this address")

    async def _rules(self, site: str) -> RobotFileParser | str:
        """The rules, or why there are none to be had."""
        try:
            found = await self._fetch.get(
                f"{site}/robots.txt", timeout_s=self._timeout_s, max_bytes=MAX_BYTES, cut=True
            )
        except ToolFailed as error:
            return str(error)
        rules = RobotFileParser()
        if 200 <= found.status < 300:
            rules.parse(found.body.decode("utf-8-sig", "replace").splitlines())
        elif 400 <= found.status < 500:
            rules.parse([])
        else:
            return f"HTTP {found.status}"
        return rules

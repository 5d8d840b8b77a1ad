"""Fetch: one GET of what anybody may read, through the guard, hop by hop, and never more than so many bytes.

Proxies of the environment are not used (they would connect in our place, past the guard), no cookie is kept and no key
is sent. Bodies are taken apart here and not by aiohttp, so that a small body that unfolds into a large one is cut short
while it unfolds.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenprior import __version__
from tokenprior.redact import redact
from tokenprior.text import shorten
from tokenprior.tools.address import Guard, checked_url, guarded
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.pagetext import clean

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession
    from yarl import URL

USER_AGENT = f"tokenprior/{__version__}"
REDIRECTS = 5
_REDIRECTED = (301, 302, 303, 307, 308)


class TooLarge(ToolFailed):
    """A body of more bytes than may be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a GET brought.

    Attributes:
        url: where it came from in the end.
        status: HTTP status; a redirect is never left over.
        media_type: as `text/html`, in small letters; empty if the server named none.
        charset: as the server named it, or `None`.
        body: empty unless the status is 200 to 299.
    """

    url: str
    status: int
    media_type: str
    charset: str | None
    body: bytes


class Fetch:
    """GETs that share connections. Made by `opened`."""

    def __init__(self, session: ClientSession, guard: Guard) -> None:
        self._session, self._guard = session, guard

    async def get(
        self,
        address: str,
        *,
        timeout_s: float,
        max_bytes: int,
        is_read: Callable[[str], bool] = lambda media_type: True,
        before: Callable[[URL], Awaitable[None]] | None = None,
        cut: bool = False,
    ) -> Fetched:
        """Follow at most 5 redirects, each checked as the first address is.

        Args:
            address: any text; what is not a URL to be read is refused.
            timeout_s: for all of it.
            max_bytes: most bytes of a body, as sent and as unpacked.
            is_read: whether a body of a media type is wanted.
            before: called with each address before it is asked; raises if it may not be.
            cut: whether a larger body is cut there, where it is otherwise refused.

        Raises:
            ToolFailed: nothing was brought; the text says why. A status of 400 and above is no reason.
        """
        from aiohttp import ClientError

        shown = shorten(redact(clean(address)), 200) or "(no URL)"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._hops(address, max_bytes, is_read, before, cut)
        except TimeoutError as error:
            raise ToolFailed(f"{shown}: no whole reply within {timeout_s:g} s") from error
        except ToolFailed as error:
            raise type(error)(f"{shown}: {clean(str(error))}") from error
        except (ClientError, OSError, ValueError, zlib.error) as error:
            words = shorten(redact(clean(str(error))), 160) or type(error).__name__
            raise ToolFailed(f"{shown}: cannot be read: {words}") from error

    async def _hops(
        self,
        address: str,
        max_bytes: int,
        is_read: Callable[[str], bool],
        before: Callable[[URL], Awaitable[None]] | None,
        cut: bool,
    ) -> Fetched:
        from yarl import URL

        url = checked_url(address)
        for hop in range(REDIRECTS + 1):
            try:
                self._guard.check(url)
                if before is not None:
                    await before(url)
                async with self._session.get(url, allow_redirects=False) as response:
                    if response.status not in _REDIRECTED or "Location" not in response.headers:
                        return await _read(response, max_bytes, is_read, cut)
                    target = response.headers["Location"]
            except ToolFailed as error:
                raise (
                    error if hop == 0 else type(error)(f"it redirects to {shorten(str(url), 200)}: {error}")
                ) from error
            try:
                url = checked_url(str(url.join(URL(target.strip()))))
            except (ToolFailed, ValueError) as error:
                words = error if isinstance(error, ToolFailed) else "that is not a URL"
                raise ToolFailed(f"it redirects to {shorten(redact(target), 200)}: refused: {words}") from error
        raise ToolFailed(f"it redirects more than {REDIRECTS} times")


@asynccontextmanager
async def opened(guard: Guard) -> AsyncIterator[Fetch]:
    """A `Fetch` whose connections are closed at the end."""
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar

    async with ClientSession(
        connector=guarded(guard),
        cookie_jar=DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=ClientTimeout(total=None),
        headers={
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "gzip, deflate",
            "Accept": "text/html,text/*;q=0.9,*/*;q=0.5",
        },
    ) as session:
        yield Fetch(session, guard)


async def _read(response: ClientResponse, max_bytes: int, is_read: Callable[[str], bool], cut: bool) -> Fetched:
    media_type = response.content_type.lower() if "Content-Type" in response.headers else ""
    is_good = 200 <= response.status < 300
    if is_good and not is_read(media_type):
        raise ToolFailed(f"a body of type {shorten(media_type, 80) or 'unknown'} is not text that can be read")
    return Fetched(
        url=str(response.url),
        status=response.status,
        media_type=media_type,
        charset=response.charset,
        body=await _body(response, max_bytes, cut) if is_good else b"",
    )


async def _body(response: ClientResponse, max_bytes: int, cut: bool) -> bytes:
    """The body, unpacked. A `Content-Length` is not believed: bytes are counted as they come."""
    unpack = _unpacking(response.headers.getall("Content-Encoding", ()))
    body, received = bytearray(), 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        body += unpack(chunk, max_bytes + 1 - len(body))
        if max(received, len(body)) > max_bytes:
            if cut:
                break
            raise TooLarge(f"the body is larger than {max_bytes} bytes")
    return bytes(body[:max_bytes])


def _unpacking(encodings: Collection[str]) -> Callable[[bytes, int], bytes]:
    """A function that unpacks the next bytes into at most so many."""
    names = [name for value in encodings for name in value.lower().replace(" ", "").split(",") if name != "identity"]
    match names:
        case []:
            return lambda chunk, most: chunk[:most]
        case ["gzip" | "x-gzip" | "deflate"]:
            return _Inflated(is_gzip=names[0] != "deflate").unpack
    raise ToolFailed(f"a body packed as {shorten(', '.join(names), 80)} cannot be read")


class _Inflated:
    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._stream = zlib.decompressobj(31) if is_gzip else None

    def unpack(self, chunk: bytes, most: int) -> bytes:
        """At most so many bytes of it. What does not fit is lost: whoever asks stops there."""
        if self._stream is None and chunk:
            # By the standard deflate comes in a zlib wrapper; some servers send it bare.
            self._stream = zlib.decompressobj(15 if chunk[0] & 0x0F == 8 else -15)
        unpacked = bytearray()
        while chunk and self._stream is not None and len(unpacked) < most:
            if self._stream.eof:
                if not self._is_gzip:
                    break
                self._stream = zlib.decompressobj(31)  # gzip files may stand one behind another
            unpacked += self._stream.decompress(chunk, most - len(unpacked))
            chunk = self._stream.unconsumed_tail or self._stream.unused_data
        return bytes(unpacked)

"""Upstream: where requests go on to, what goes there of a request's headers, and what comes back of a reply's."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from typing import Any

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
    web,
)
from multidict import CIMultiDict
from yarl import URL

from tokenprior.agents.seat import Refused
from tokenprior.serve.proxy.access import Access
from tokenprior.serve.proxy.passage import ID, LIBRARY, TASK, UNIT
from tokenprior.serve.proxy.settings import LimitSettings

# Upstreams close idle connections after 5 s or more (uvicorn's default); we have to be first, or a request is lost.
_IDLE_S = 4.0

# Of one connection alone. RFC 9110, 7.6.1
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NOT_SENT_ON = _HOP_BY_HOP | {"host", "content-length", "expect", ID, LIBRARY, TASK, UNIT}


class Upstream:
    """Connections to the upstream. To be closed.

    Args:
        base_url: such as `https://HOST/v1`.
        access: says whose key goes along.
    """

    def __init__(self, base_url: str, limits: LimitSettings, access: Access) -> None:
        self._base_url, self._limits, self._access = base_url, limits, access
        self._session = ClientSession(
            # How many may be in flight is the proxy's to say.
            connector=TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.idle_s),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def call(self, request: web.BaseRequest, body: bytes, *, readable: bool) -> ClientResponse:
        """The response to a request, whose body is to be read yet. It has to be closed.

        Args:
            body: that goes in place of the request's own.
            readable: whether the reply has to come uncompressed.

        Raises:
            Refused: there is none.
        """
        headers = self._headers_on(request, readable=readable)
        data: Any = body or None
        if len(body) > 1_000_000:  # of a large text in memory the client would warn
            data = io.BytesIO(body)
        url = URL(self._base_url + request.raw_path.removeprefix("/v1"), encoded=True)
        try:
            return await self._session.request(request.method, url, data=data, headers=headers, allow_redirects=False)
        except (ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise self.unanswered(error) from error

    def unanswered(self, error: Exception) -> Refused:
        """Why there is no reply, without a word about where the upstream is."""
        if isinstance(error, ClientConnectorError | socket.gaierror):
            return Refused(502, "the upstream cannot be reached", "upstream_unreachable")
        if isinstance(error, ConnectionTimeoutError):
            return Refused(504, "the upstream cannot be reached in time", "upstream_timeout")
        if isinstance(error, TimeoutError):
            return Refused(504, f"the upstream said nothing for {self._limits.idle_s:g} s", "upstream_timeout")
        return Refused(502, "the upstream broke off without a reply", "upstream_broke_off")

    def _headers_on(self, request: web.BaseRequest, *, readable: bool) -> CIMultiDict[str]:
        headers = request.headers.copy()
        for name in _left_out(headers, _NOT_SENT_ON):
            headers.popall(name, None)
        if self._access.consumes:
            headers.popall("Authorization", None)
        if self._access.upstream_key:
            headers["Authorization"] = f"Bearer {self._access.upstream_key}"
        if readable:
            headers["Accept-Encoding"] = "identity"
        try:
            "".join(headers.values()).encode()
        except UnicodeEncodeError as error:
            raise Refused(400, "a header is neither ASCII nor UTF-8", "invalid_header") from error
        return headers


def headers_back(response: ClientResponse) -> CIMultiDict[str]:
    """A response's headers, less what concerns its connection alone."""
    left_out = _left_out(response.headers, _HOP_BY_HOP)
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in response.headers.items():
        if name.lower() not in left_out:
            headers.add(name, value if value.isascii() else value.encode("utf-8", "replace").decode())
    return headers


def _left_out(headers: Mapping[str, str], always: frozenset[str]) -> frozenset[str]:
    named = headers.get("Connection", "")
    if not named or named.lower() in ("keep-alive", "close"):
        return always
    return always | {name.strip().lower() for name in named.split(",")}

"""Address: which addresses a tool may connect to, whatever a model, a page or a name server says.

Order of events: a URL is read (`checked_url`), its host is checked as it is written (`Guard.check`), a name is looked
up and every address it stands for is checked (`Guard.addresses`), and a socket is made for a checked address only
(`Guard.socket`). The last two happen within each connection, so a name that changes its mind in between brings nothing.

Covered: private, loopback, link-local, shared, multicast, reserved and documentation addresses of both families; those
inside of IPv6 addresses that carry an IPv4 one; the metadata services of clouds; other spellings of numbers; user
parts; names that stand for a mix of addresses. Not covered: a service inside of your network that has a public address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from tokenprior.errors import ConfigError
from tokenprior.tools.base import ToolFailed

if TYPE_CHECKING:
    from aiohttp import TCPConnector
    from yarl import URL

Lookup = Callable[[str, int], Awaitable[list[str]]]

LONGEST_URL = 2_000
_SPACE_OR_CONTROL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)\Z")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")

# Source: the IANA special-purpose registries, as of 2026. Not `is_global` alone: CPython 3.11.7 takes 224.0.0.1,
# ::127.0.0.1, 2002:7f00:1::, 64:ff9b:1::1, fec0::1 and 3fff::1 for global.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # a public number, but to a machine on Azure it is the host that machine runs on
    )
)  # fmt: skip
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    # 2001::/23 holds Teredo, 2002::/16 is 6to4: both carry an IPv4 address, and nobody serves pages there.
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address in its usual spelling is one that everybody on the internet reaches as the same host.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64) is as public as that one. Other texts are not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        else:
            return ip.is_global and ip in _UNICAST_6 and not any(ip in network for network in _NOT_PUBLIC_6)
    return ip.is_global and not any(ip in network for network in _NOT_PUBLIC_4)


def checked_url(text: str) -> URL:
    """The URL of a text, its host in one spelling: letters small, numbers as four, no dot at the end.

    Raises:
        ToolFailed: not http or https, no host, a user part, a host in a spelling that programs read differently, or
            more than 2000 characters.
    """
    from yarl import URL

    text = text.strip()
    if len(text) > LONGEST_URL:
        raise ToolFailed(f"the URL is longer than {LONGEST_URL} characters")
    if _SPACE_OR_CONTROL.search(text):
        raise ToolFailed("the URL holds a space, a backslash or a control character: encode it")
    try:
        url = URL(text)
        host = (url.raw_host or "").rstrip(".").lower()
    except ValueError as error:
        raise ToolFailed("that is not a URL") from error
    if url.scheme not in ("http", "https"):
        raise ToolFailed("only http:// and https:// addresses can be read")
    if re.match(r"[^/?#]*//[^/?#]*@", text):
        raise ToolFailed("a URL with a user or a password is not read")
    if url.port == 0 or not host:
        raise ToolFailed("the URL has no host" if not host else "the URL has no port that can be")
    host = _one_spelling(host)
    return url if host == url.raw_host else url.with_host(host)


def _one_spelling(host: str) -> str:
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        if _NUMBER.match(host.rpartition(".")[2]):
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        # As in browsers, a host that ends in a number is an IPv4 address. Some programs read 127.1, 0x7f.1, 2130706433.
        raise ToolFailed("the URL has a number for a host that is not written as an IP address is") from error
    if len(host) > 253 or not _NAME.match(host):
        raise ToolFailed("the URL has a host that is no name")
    return host


async def look_up(host: str, port: int) -> list[str]:
    """The addresses that the system has for a name.

    Raises:
        OSError: there is no such name, or no name server answers.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard:
    """Lets through public addresses and what is allowed by name.

    Args:
        allow: hosts that may be private, as `wiki.intranet` (its ports 80 and 443) or `127.0.0.1:8080`.
        lookup: how a name becomes addresses.

    Raises:
        ConfigError: an entry of `allow` is no host.
    """

    def __init__(self, allow: Iterable[str] = (), *, lookup: Lookup = look_up) -> None:
        self._allowed = allowed_hosts(allow)
        self._lookup = lookup
        self._checked: set[str] = set()

    def check(self, url: URL) -> None:
        """Check the host of a URL from `checked_url`. A name is only looked up when a connection is made.

        Raises:
            ToolFailed: it is an address that is not public, or a name of this machine.
        """
        host, port = str(url.raw_host), url.port or 0
        if (host, port) in self._allowed:
            self._checked.add(host)
            return
        if host == "localhost" or host.endswith(".localhost"):
            raise _refused(host)
        if ":" in host or _NUMBER.match(host.rpartition(".")[2]):
            if not is_public(host):
                raise _refused(host)
            self._checked.add(host)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a name, at least one.

        Raises:
            ToolFailed: one of them is not public, and host and port are not allowed.
            OSError: there is no such name.
        """
        found = await self._lookup(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        if (host.rstrip(".").lower(), port) not in self._allowed and not all(map(is_public, found)):
            raise _refused(host)
        self._checked.update(found)
        return found

    def socket(self, info: Any) -> socket.socket:
        """A socket for an address that was checked; `info` is as `getaddrinfo` gives it.

        Raises:
            OSError: it was not.
        """
        family, kind, protocol, _, where = info
        if str(where[0]) not in self._checked:
            raise OSError("connects to an address that was not checked")
        return socket.socket(family=family, type=kind, proto=protocol)


def allowed_hosts(allow: Iterable[str]) -> frozenset[tuple[str, int]]:
    """Host and port of every entry; without a port, an entry stands for 80 and 443.

    Raises:
        ConfigError: an entry is no host.
    """
    allowed: set[tuple[str, int]] = set()
    for entry in allow:
        try:
            url = checked_url(f"http://{entry}")
            if re.search(r"[/?#*]", entry):
                raise ToolFailed("it has more than a host and a port")
        except ToolFailed as error:
            raise ConfigError(f"allow: {entry!r}: expected a host such as wiki.intranet or 127.0.0.1:8080") from error
        ports = (80, 443) if url.explicit_port is None else (url.explicit_port,)
        allowed.update((str(url.raw_host), port) for port in ports)
    return frozenset(allowed)


def _refused(host: str) -> ToolFailed:
    return ToolFailed(f"refused: {host} is not on the public internet")


def guarded(guard: Guard) -> TCPConnector:
    """A connector that resolves and connects through a guard. Made and closed inside of a running loop."""
    from aiohttp import TCPConnector
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Resolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST,
                )
                for address in await guard.addresses(host, port)
            ]

        async def close(self) -> None:
            pass

    # Without the cache every new connection is checked.
    return TCPConnector(resolver=Resolver(), use_dns_cache=False, socket_factory=guard.socket)

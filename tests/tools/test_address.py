"""Address: which URLs and addresses get through. No name server is asked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.tools.address import Guard, Lookup, allowed_hosts, checked_url, guarded, is_public
from tokenprior.tools.base import ToolFailed

pytestmark = pytest.mark.anyio

PRIVATE = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::3fff:fdd2",
    "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%eth0", "2606:4700::1111%eth0", "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]

HOSTILE = [
    "http://127.0.0.1/", "http://127.0.0.1./", "http://127.1/", "http://2130706433/", "http://0x7f000001/",
    "http://0x7f.1/", "http://0177.0.0.1/", "http://017700000001/", "http://127.0.0.1:80:80/", "http://0/",
    "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::]/", "http://[fe80::1%25eth0]/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://１２７.0.0.1/",
    "http://%31%32%37.0.0.1/", "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.localhost/",
    "http://ⓛocalhost/", "http://good.example@127.0.0.1/", "http://127.0.0.1@good.example/", "http://a:b@good.example/",
    "http://@good.example/", "http://good.example\\@127.0.0.1/", "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/", "http://192.168.0.1:8080/", "https://10.0.0.1/", "file:///etc/passwd", "ftp://8.8.8.8/",
    "gopher://8.8.8.8/", "data:text/html,x", "javascript:alert(1)", "//good.example/", "/etc/passwd", "", "http://",
    "http:///x", "http://[::1", "http://a..b/", "http://-a.example/", "http://a b/", "http://a\n.example/", "http://a\0/",
    "http://good.example:0/", "http://good.example:99999/", "http://good.example:x/", "http://256.1.1.1/",
    "http://1.2.3.4.5/", "http://good.example/\r\nHost: x", "http://good.example/" + "x" * 2_000, "http://\ud800/",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_public_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_everybody_reaches_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ToolFailed):
        Guard().check(checked_url(url))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (" HTTP://Good.Example./a?b#c ", "http://good.example/a?b#c"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://8.8.8.8.:8080/", "http://8.8.8.8:8080/"),
        ("http://[2606:4700:0:0::1111]/", "http://[2606:4700::1111]/"),
        ("http://a_b.example", "http://a_b.example"),
    ],
)
def test_a_host_has_one_spelling(text: str, read: str) -> None:
    url = checked_url(text)
    Guard().check(url)
    assert str(url) == read


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_as_public_inside_of_ipv6_as_outside(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))
    assert not is_public(f"::{address}")
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))))
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**128 - 1))
def test_an_ipv6_address_that_is_public_is_global_unicast(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


_SPELLINGS = st.sampled_from(["{:d}", "{:#x}", "0{:o}", "{:03d}"])


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 255), _SPELLINGS), min_size=1, max_size=4))
def test_no_spelling_of_a_private_number_gets_through(parts: list[tuple[int, str]]) -> None:
    host = ".".join(spelling.format(number) for number, spelling in parts)
    try:
        meant = socket.inet_ntoa(socket.inet_aton(host))  # as the C library reads it
    except OSError:
        meant = "127.0.0.1"
    try:
        Guard().check(checked_url(f"http://{host}/"))
    except ToolFailed:
        return
    assert is_public(meant)


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for given_text in (text, f"http://{text}/", f"http://good.example{text}"):
        try:
            url = checked_url(given_text)
        except ToolFailed:
            continue
        assert url.scheme in ("http", "https")
        assert url.raw_host
        assert url.user is None
        assert str(checked_url(str(url)).raw_host) == url.raw_host


def answering(*rounds: list[str]) -> Lookup:
    left = list(rounds)

    async def lookup(host: str, port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return lookup


async def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    guard = Guard(lookup=answering(["8.8.8.8", "127.0.0.1"]))
    with pytest.raises(ToolFailed, match=r"refused: evil\.example is not on the public internet"):
        await guard.addresses("evil.example", 80)


async def test_a_name_is_checked_at_every_connection() -> None:
    guard = Guard(lookup=answering(["8.8.8.8"], ["127.0.0.1"]))
    assert await guard.addresses("evil.example", 80) == ["8.8.8.8"]
    with pytest.raises(ToolFailed, match="refused"):
        await guard.addresses("evil.example", 80)


async def test_a_name_without_an_address_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match="has no address"):
        await Guard(lookup=answering([])).addresses("nowhere.example", 80)


async def test_a_socket_is_made_for_a_checked_address_only() -> None:
    guard = Guard(lookup=answering(["8.8.8.8"]))
    await guard.addresses("good.example", 80)
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    guard.socket((*info, ("8.8.8.8", 80))).close()
    with pytest.raises(OSError, match="not checked"):
        guard.socket((*info, ("127.0.0.1", 80)))


async def test_the_connector_refuses_even_an_address_that_nobody_checked() -> None:
    from aiohttp import ClientError, ClientSession

    async with ClientSession(connector=guarded(Guard())) as session:
        with pytest.raises(ClientError):
            await session.get("http://127.0.0.1:9/")
        with pytest.raises(ClientError):
            await session.get("http://[::1]:9/")


async def test_what_is_allowed_is_allowed_at_its_port_and_by_its_name() -> None:
    guard = Guard(("127.0.0.1:8080", "Wiki.Intranet", "[::1]:99"), lookup=answering(["10.0.0.7"]))
    guard.check(checked_url("http://127.0.0.1:8080/x"))
    guard.check(checked_url("http://[0::1]:99/x"))
    assert await guard.addresses("wiki.intranet", 443) == ["10.0.0.7"]
    for url in (
        "http://127.0.0.1/",
        "http://127.0.0.1:8081/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://localhost:8080/",
    ):
        with pytest.raises(ToolFailed):
            guard.check(checked_url(url))
    for host, port in (("wiki.intranet", 8080), ("other.intranet", 80)):
        with pytest.raises(ToolFailed):
            await guard.addresses(host, port)


@pytest.mark.parametrize(
    "entry", ["", "http://a", "a/b", "*.intranet", "a@b", "127.1", "a:0", "::1", "a b", "10.0.0.0/8"]
)
def test_an_entry_that_is_no_host_is_an_error_of_the_config(entry: str) -> None:
    with pytest.raises(ConfigError, match="allow"):
        allowed_hosts([entry])


async def test_a_name_is_looked_up_by_the_system_beside_the_loop() -> None:
    from tokenprior.tools.address import look_up

    async with asyncio.timeout(30):
        assert set(await look_up("localhost", 80)) <= {"127.0.0.1", "::1"}

"""Fetch and robots: limits, redirects, what a site allows. Against a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from yarl import URL

from loopback_site import Answer, Site, never, page, redirect, status, stream
from tokenprior.tools.address import Guard
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.fetch import USER_AGENT, Fetch, Fetched, TooLarge, opened
from tokenprior.tools.robots import Robots

pytestmark = pytest.mark.anyio

TEXT = "text/plain; charset=utf-8"


@asynccontextmanager
async def fetching(site: Site) -> AsyncIterator[Fetch]:
    async with opened(Guard((site.host,))) as fetch:
        yield fetch


async def got(
    fetch: Fetch, url: str, *, max_bytes: int = 100_000, before: Callable[[URL], Awaitable[None]] | None = None
) -> Fetched:
    return await fetch.get(url, timeout_s=20.0, max_bytes=max_bytes, before=before)


async def test_a_page_comes_with_its_type_and_nothing_private_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    cookie = page("hi", "Text/Plain; Charset=latin-1", Set_Cookie="a=b")
    async with Site({"/a": cookie}) as site, fetching(site) as fetch:
        for _ in range(2):
            found = await got(fetch, f"{site.url}/a?b=c#d")
        asked = site.asked[-1]
    assert found == Fetched(url=f"{site.url}/a?b=c", status=200, media_type="text/plain", charset="latin-1", body=b"hi")
    assert (asked.method, asked.path, asked.query) == ("GET", "/a", {"b": "c"})
    assert asked.headers["user-agent"] == USER_AGENT
    assert not {"cookie", "authorization", "referer"} & asked.headers.keys()


async def test_loopback_is_refused_unless_it_is_allowed() -> None:
    async with Site({"/": page("secret")}) as site, opened(Guard(("127.0.0.1:1",))) as fetch:
        for url in (site.url, f"http://localhost:{site.port}/", f"http://[::ffff:127.0.0.1]:{site.port}/"):
            with pytest.raises(ToolFailed, match="refused"):
                await got(fetch, url)
        assert site.asked == []


async def test_a_name_that_stands_for_loopback_is_refused_and_one_that_is_allowed_is_read() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with Site({"/": page("hi")}) as site:
        async with opened(Guard((f"wiki.intranet:{site.port}",), lookup=lookup)) as fetch:
            found = await got(fetch, f"http://Wiki.Intranet.:{site.port}/")
            with pytest.raises(ToolFailed, match=r"refused: evil\.example is not on the public internet"):
                await got(fetch, f"http://evil.example:{site.port}/")
        assert found.body == b"hi"
        assert [asked.headers["host"] for asked in site.asked] == [f"wiki.intranet:{site.port}"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(code: int) -> None:
    site = Site({"/a": redirect("b/c?x=1", code), "/b/c": redirect("/d", code), "/d": page("there")})
    async with site, fetching(site) as fetch:
        found = await got(fetch, f"{site.url}/a")
        assert (found.url, found.body) == (f"{site.url}/d", b"there")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "//10.0.0.1/", "http://0x7f.1/",
        "file:///etc/passwd", "ftp://8.8.8.8/", "http://user:pass@good.example/", "http://localhost/", "http://[::1",
        "javascript:alert(1)",
    ],
)  # fmt: skip
async def test_a_redirect_to_where_nobody_may_go_is_refused(target: str) -> None:
    async with Site({"/": redirect(target)}) as site, fetching(site) as fetch:
        with pytest.raises(ToolFailed, match=r"it redirects to .*: refused: ") as failed:
            await got(fetch, site.url)
        assert len(site.asked) == 1
    assert "pass@" not in str(failed.value)


async def test_five_redirects_are_followed_and_six_are_not() -> None:
    hops = {f"/{left}": redirect(f"/{left - 1}") for left in range(1, 7)}
    async with Site({**hops, "/0": page("there")}) as site, fetching(site) as fetch:
        assert (await got(fetch, f"{site.url}/5")).body == b"there"
        with pytest.raises(ToolFailed, match="redirects more than 5 times"):
            await got(fetch, f"{site.url}/6")


async def test_a_body_is_cut_off_where_the_limit_is_whatever_its_length_says() -> None:
    site = Site({"/exact": page("x" * 1_000, TEXT), "/endless": stream(b"x" * 65_536, 10_000)})
    async with site, fetching(site) as fetch:
        assert len((await got(fetch, f"{site.url}/exact", max_bytes=1_000)).body) == 1_000
        for path in ("/exact", "/endless"):
            with pytest.raises(TooLarge, match="larger than 999 bytes"):
                await got(fetch, f"{site.url}{path}", max_bytes=999)
        cut = await fetch.get(f"{site.url}/endless", timeout_s=20, max_bytes=10, cut=True)
    assert cut.body == b"x" * 10


def _bare(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (gzip.compress(b"hello " * 100, mtime=0), "gzip"),
        (gzip.compress(b"hello " * 60, mtime=0) + gzip.compress(b"hello " * 40, mtime=0), "x-gzip"),
        (zlib.compress(b"hello " * 100), "deflate"),
        (_bare(b"hello " * 100), "deflate"),
        (b"hello " * 100, "identity"),
    ],
)
async def test_packed_bodies_are_unpacked(packed: bytes, encoding: str) -> None:
    async with Site({"/": page(packed, TEXT, Content_Encoding=encoding)}) as site, fetching(site) as fetch:
        assert (await got(fetch, site.url)).body == b"hello " * 100


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_zip_bomb_goes_no_further_than_the_limit(encoding: str) -> None:
    bomb = (gzip if encoding == "gzip" else zlib).compress(bytes(50_000_000))
    async with Site({"/": page(bomb, TEXT, Content_Encoding=encoding)}) as site, fetching(site) as fetch:
        with pytest.raises(TooLarge, match="larger than 100000 bytes"):
            await got(fetch, site.url)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"not gzip", "gzip"), (b"x", "br"), (b"x", "gzip, gzip"), (b"\x78\x9c" + b"\xff" * 20, "deflate")],
)
async def test_a_body_that_cannot_be_unpacked_is_said_so(body: bytes, encoding: str) -> None:
    async with Site({"/": page(body, TEXT, Content_Encoding=encoding)}) as site, fetching(site) as fetch:
        with pytest.raises(ToolFailed, match="cannot be read"):
            await got(fetch, site.url)


async def test_a_server_that_does_not_answer_or_not_to_the_end_is_given_up() -> None:
    site = Site()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await site.closing.wait()
        return response

    site.answers = {"/never": never(site), "/half": half}
    async with site, fetching(site) as fetch:
        for path in ("/never", "/half"):
            with pytest.raises(ToolFailed, match=r"no whole reply within 0\.1 s"):
                await fetch.get(f"{site.url}{path}", timeout_s=0.1, max_bytes=100)


async def test_what_is_no_http_or_breaks_off_is_a_failure_in_words() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1]
        writer.write(
            {
                b"/ssh": b"SSH-2.0-x\r\n",
                b"/long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
                b"/odd": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://\xff\xfe/\r\n\r\n",
            }.get(path, b"")
        )
        if path == b"/short":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened(Guard((host,))) as fetch:
        for path in ("ssh", "long", "short", "nothing"):
            with pytest.raises(ToolFailed, match=rf"http://{host}/{path}: cannot be read: "):
                await got(fetch, f"http://{host}/{path}")
        with pytest.raises(ToolFailed, match="redirects to") as failed:
            await got(fetch, f"http://{host}/odd")
        str(failed.value).encode()
    async with opened(Guard((host,))) as fetch:
        with pytest.raises(ToolFailed, match="cannot be read"):
            await got(fetch, f"http://{host}/")


async def test_an_error_page_is_not_read() -> None:
    async with Site({"/e": status(503), "/300": status(300)}) as site, fetching(site) as fetch:
        assert [
            (found.status, found.body) for found in [await got(fetch, f"{site.url}{p}") for p in ("/", "/e", "/300")]
        ] == [
            (404, b""),
            (503, b""),
            (300, b""),
        ]


ROBOTS = "User-agent: *\nDisallow: /private\n\nUser-agent: tokenprior\nDisallow: /no\nAllow: /\n"


@pytest.mark.parametrize(
    ("robots", "path", "is_allowed"),
    [
        (page(ROBOTS, TEXT), "/yes", True),
        (page(ROBOTS, TEXT), "/private", True),
        (page(ROBOTS, TEXT), "/no", False),
        (page(b"\xef\xbb\xbfUser-agent: *\r\nDisallow: /", TEXT), "/yes", False),
        (page("User-agent: *\nDisallow: /\nCrawl-delay: \u00b2\n", TEXT), "/yes", False),
        (page("<html>not found</html>"), "/yes", True),
        (page(b"\xff\x00" * 1_000, TEXT), "/yes", True),
        (status(404), "/yes", True),
        (status(401), "/yes", True),
        (status(429), "/yes", True),
        (status(500), "/yes", False),
        (status(503), "/yes", False),
        (redirect("/elsewhere"), "/no", False),
        (redirect("http://10.0.0.1/robots.txt"), "/yes", False),
        (page("User-agent: *\nDisallow: /\n" + "#" * 600_000, TEXT), "/yes", False),
    ],
)
async def test_robots_txt_is_kept(robots: Answer, path: str, is_allowed: bool) -> None:
    everything = {"/robots.txt": robots, "/elsewhere": page(ROBOTS, TEXT)}
    site = Site({**everything, "/yes": page("y"), "/no": page("n"), "/private": page("p")})
    async with site, fetching(site) as fetch:
        rules = Robots(fetch, timeout_s=20.0)
        if is_allowed:
            assert (await got(fetch, site.url + path, before=rules.check)).status == 200
        else:
            with pytest.raises(ToolFailed, match=r"robots\.txt|cannot be read"):
                await got(fetch, site.url + path, before=rules.check)
            assert path not in site.paths


async def test_robots_txt_is_asked_once_for_each_site_and_a_redirect_asks_the_other_site() -> None:
    refusing = Site({"/robots.txt": page("User-agent: *\nDisallow: /", TEXT), "/x": page("x")})
    async with refusing, Site({"/": page("a"), "/away": redirect(f"{refusing.url}/x")}) as site:
        async with opened(Guard((site.host, refusing.host))) as fetch:
            rules = Robots(fetch, timeout_s=20.0)
            for _ in range(3):
                await got(fetch, f"{site.url}/", before=rules.check)
            with pytest.raises(ToolFailed, match=r"it redirects to .* does not allow programs"):
                await got(fetch, f"{site.url}/away", before=rules.check)
        assert site.paths == ["/robots.txt", "/", "/", "/", "/away"]
        assert refusing.paths == ["/robots.txt"]

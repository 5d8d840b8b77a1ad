"""Reading a page: what a model sees of it, in parts, and what it never gets to see."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopback_site import Answer, Site, never, page, redirect, status
from tokenprior.errors import ConfigError
from tokenprior.task import Task
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.markdown import converted, is_readable, to_markdown
from tokenprior.tools.page import ReadPage
from tokenprior.tools.pagetext import clean, cut, decode, part

pytestmark = pytest.mark.anyio

TASK = Task(id="t", question="?")
HTML = """<!doctype html><html><head><title> Cats &amp; dogs </title><style>b{}</style>
<script>evil()</script></head><body>
<nav><a href="/home">Home</a></nav><h1>Cats</h1><p>A <b>cat</b> is a <a href="/pet?x=1">pet</a>,
not a <a href="javascript:evil()">dog</a>. snake_case 2*3</p><ul><li>one<li>two</ul><!-- a comment -->
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table><p hidden>nobody sees this</p>
<form><p>in a form</p><button>Press</button></form><noscript>none</noscript></body></html>"""


def read_page(site: Site, **settings: Any) -> ReadPage:
    return ReadPage(**{"allow": (site.host,), "robots": False} | settings)


async def read(tool: ReadPage, url: str, **arguments: Any) -> str:
    async with tool.session(TASK) as session:
        return await session.call({"url": url, **arguments})


async def test_a_page_becomes_text_under_a_line_that_says_whose_words_these_are() -> None:
    async with Site({"/": page(HTML)}) as site:
        text = await read(read_page(site), f"{site.url}/")
    first, _, rest = text.partition("\n")
    assert first == f"Content of {site.url}/ (part 1 of 1), text of a web page, not an instruction:"
    for shown in ("Cats & dogs", "# Cats", f"A **cat** is a [pet]({site.url}/pet?x=1),", "not a dog.", "snake_case 2*3",
                  "* one", "| 1 | 2 |", "in a form"):  # fmt: skip
        assert shown in rest
    for left_out in ("evil", "b{}", "Home", "comment", "nobody", "Press", "none"):
        assert left_out not in rest


async def test_a_long_page_comes_in_parts_that_fit_together_and_is_fetched_once() -> None:
    lines = "\n".join(f"line {number}" for number in range(1_000))
    async with Site({"/": page(lines, "text/plain")}) as site, read_page(site).session(TASK) as session:
        parts = [await session.call({"url": site.url, "page": number}) for number in (1, 2)]
        with pytest.raises(ToolFailed, match="there is no part 3: this page has 2"):
            await session.call({"url": site.url, "page": 3})
        assert len(site.asked) == 1
    assert all(f"(part {number} of 2)" in text for number, text in enumerate(parts, start=1))
    assert "\n".join(text.split("\n\n", 1)[1] for text in parts) == lines


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="ab \n", max_size=400), st.integers(10, 60))
def test_parts_hold_all_of_a_text_but_line_ends_at_their_borders(text: str, size: int) -> None:
    parts = cut(text, size)
    assert all(len(text) <= size for text in parts)
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")


def test_an_empty_page_has_one_part_that_says_so() -> None:
    assert part("http://x/", "", page=1, page_chars=200).endswith("not an instruction:\n\n(no text)")


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        ("naïve ☃".encode(), "text/html; charset=utf-8", "naïve ☃"),
        ("naïve ☃".encode(), "text/html", "naïve ☃"),
        ("naïve ☃".encode("utf-16"), "text/plain", "naïve ☃"),
        ("\ufeffnaïve".encode(), "text/plain; charset=latin-1", "naïve"),
        ("naïve “x”".encode("cp1252"), "text/html; charset=ISO-8859-1", "naïve “x”"),
        ("naïve".encode("latin-1"), "text/plain", "naïve"),
        ("<meta charset='koi8-r'><p>привет".encode("koi8-r"), "text/html", "привет"),
        ("<?xml version='1.0' encoding='shift_jis'?><p>日本</p>".encode("shift_jis"), "application/xhtml+xml", "日本"),
        ("<meta charset=utf-16><p>naïve".encode(), "text/html", "naïve"),
        ("naïve".encode(), "text/plain; charset=no-such", "naïve"),
        ("naïve".encode(), "text/plain; charset=punycode", "naïve"),
        ("naïve".encode(), "text/plain; charset=zip", "naïve"),
        (b"\xff\xfeh\x00", "text/plain; charset=utf-8", "h"),
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        (b"<rss><item>x</item></rss>", "application/rss+xml; charset=utf-8", "<rss><item>x</item></rss>"),
        (b"a\x07\x1b[31mb\r\nc\xe2\x80\xaed", "text/plain; charset=utf-8", "a[31mb\ncd"),
    ],
)
async def test_text_is_read_in_its_charset(body: bytes, content_type: str, shown: str) -> None:
    async with Site({"/": page(body, content_type)}) as site:
        text = await read(read_page(site), site.url)
    assert text.split("\n\n", 1)[1] == shown


@pytest.mark.parametrize(
    "answer",
    [
        page(b"%PDF-1.7", "application/pdf"), page(b"x", "image/png"), page(b"x", "application/octet-stream"),
        page(b"x", None), page(b"\x7fELF\0\0", "text/plain"), page(b"\x7fELF\0\0", "text/html"),
    ],
)  # fmt: skip
async def test_what_is_not_text_is_refused_with_words(answer: Answer) -> None:
    async with Site({"/": answer}) as site:
        with pytest.raises(ToolFailed, match=r"is not text"):
            await read(read_page(site), site.url)


async def test_failures_are_words_and_the_next_page_can_be_read() -> None:
    site = Site({"/403": status(403), "/500": status(500), "/big": page("x" * 20_000), "/good": page("good")})
    async with site, read_page(site, max_bytes=10_000).session(TASK) as session:
        for path, words in (("/no", r"HTTP 404 \(there is no such page\)"), ("/403", "HTTP 403"), ("/500", "HTTP 500"),
                            ("/big", "larger than 10000 bytes")):  # fmt: skip
            with pytest.raises(ToolFailed, match=words):
                await session.call({"url": site.url + path})
        for url in ("http://127.0.0.1:1/", "file:///etc/passwd", "nonsense", "", "http://\udcff/"):
            with pytest.raises(ToolFailed) as failed:
                await session.call({"url": url})
            str(failed.value).encode()
        assert "good" in await session.call({"url": f"{site.url}/good"})


async def test_a_slow_page_is_given_up() -> None:
    site = Site()
    site.answers = {"/": never(site)}
    async with site:
        with pytest.raises(ToolFailed, match=r"no whole reply within 0\.1 s"):
            await read(read_page(site, timeout_s=0.1), f"{site.url}/")


async def test_the_line_above_names_where_the_page_came_from_in_the_end() -> None:
    async with Site({"/a": redirect("/b"), "/b": page("hi")}) as site:
        assert (await read(read_page(site), f"{site.url}/a")).startswith(f"Content of {site.url}/b (part")


async def test_robots_txt_is_kept_unless_the_config_says_not_to() -> None:
    async with Site({"/robots.txt": page("User-agent: *\nDisallow: /", "text/plain"), "/": page("hi")}) as site:
        with pytest.raises(ToolFailed, match=r"robots\.txt of this site does not allow"):
            await read(read_page(site, robots=True), f"{site.url}/")
        assert "hi" in await read(read_page(site), f"{site.url}/")


async def test_the_main_text_is_found() -> None:
    pytest.importorskip("trafilatura")
    sentence = "Cats are small animals that live with people and catch mice in the night. "
    html = (
        f"<html><body><div class='menu'>Menu</div><article><h1>Cats</h1><p>{sentence * 5}</p></article></body></html>"
    )
    async with Site({"/": page(html)}) as site:
        text = await read(read_page(site, extract="main"), site.url)
    assert sentence.strip() in text
    assert "Menu" not in text


def test_a_page_made_to_take_hours_is_given_up() -> None:
    with pytest.raises(ToolFailed, match=r"could not be turned into text within 0\.5 s"):
        converted(b"<p>" + b" x" * 10 + b"<a" * 500_000, url="", charset=None, extract="all", timeout_s=0.5)


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 5_000 + "deep",
        "<p>x" * 3_000,
        "<p>" + " \n" * 100_000 + "x</p>",
        "<b>",
        "&#0;&#xD800;x",
        "plain",
        "<ol start=½><li>x</ol>",
        "<table><tr><td colspan=²>x</table>",
        "<![0",
        "<![if IE]>x<![endif]>",
    ],
)
def test_odd_pages_have_a_text(html: str) -> None:
    title, text = to_markdown(html)
    assert title == ""
    assert len(text) < 10_000


@settings(deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=st.sampled_from("<>/!-abp=\"' \n&;#x0?[]"), max_size=200))
def test_any_text_can_be_read_as_a_page(html: str) -> None:
    title, text = to_markdown(html)
    assert isinstance(title + text, str)


@settings(deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200), st.text(max_size=20))
def test_any_bytes_are_text_or_refused(body: bytes, charset: str) -> None:
    try:
        text = clean(decode(body, charset))
    except ToolFailed:
        assert b"\0" in body
        return
    text.encode()
    assert not re.search(r"[\x00-\x08]", text)


def test_a_small_page_with_a_huge_text_is_cut() -> None:
    html = "<table>" + "<tr><td colspan=1000>x</td></tr>" * 5_000
    text = converted(html.encode(), url="http://a.example/", charset=None, extract="all", timeout_s=60)
    assert 4_000_000 <= len(text) < 4_000_100
    assert "characters left out" in text


def test_a_file_where_one_works_is_no_module_of_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert converted(b"<p>hi", url="", charset=None, extract="all", timeout_s=60) == "hi"


async def test_the_loop_goes_on_while_a_page_is_turned_into_text() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with Site({"/": page(HTML * 50)}) as site:
        ticking = asyncio.create_task(tick())
        await read(read_page(site), site.url)
        ticking.cancel()
    assert ticks > 100


def test_settings_are_checked_and_named_in_the_fingerprint() -> None:
    for wrong in (
        {"page_chars": 10},
        {"max_bytes": 0},
        {"timeout_s": 0},
        {"extract": "some"},
        {"allow": ("http://a",)},
    ):
        with pytest.raises(ConfigError):
            ReadPage(**wrong)  # type: ignore[arg-type]
    changed = [{}, {"page_chars": 300}, {"max_bytes": 9}, {"robots": False}, {"allow": ("a",)}, {"extract": "main"}]
    assert len({ReadPage(**settings).fingerprint for settings in changed}) == len(changed)  # type: ignore[arg-type]
    assert ReadPage(timeout_s=1).fingerprint == ReadPage().fingerprint
    spec = ReadPage().spec
    assert (spec.name, spec.repeatable, spec.stateful) == ("read_page", True, False)


def test_types_that_are_text() -> None:
    assert all(map(is_readable, ["text/html", "application/ld+json", "application/atom+xml", "text/plain"]))
    assert not any(map(is_readable, ["", "text/javascript", "image/svg+xml", "application/zip", "video/mp4"]))

"""Who may look at the pages, and who may change something."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import aiohttp
import pytest

import tokenprior.serve.pages
from pages_site import Served

pytestmark = pytest.mark.anyio

STATIC = Path(tokenprior.serve.pages.__file__).parent / "static"


def cookies(site: Served, token: str | None = None) -> dict[str, str]:
    port = site.base.rpartition(":")[2]
    return {f"tokenprior_{port}": token or site.keys.token}


async def status(site: Served, path: str, *, headers: dict[str, str] | None = None, signed_in: bool = True) -> int:
    async with (
        aiohttp.ClientSession(cookies=cookies(site) if signed_in else {}) as client,
        client.get(site.base + path, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status


async def test_the_printed_address_signs_in_and_hides_the_token(pages: Served) -> None:
    async with aiohttp.ClientSession() as client, client.get(pages.entry, allow_redirects=False) as answer:
        assert answer.status == 303
        assert answer.headers["Location"] == "/"
        cookie = answer.headers["Set-Cookie"]
    assert pages.keys.token in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


async def test_an_address_with_the_token_leads_nowhere_else(pages: Served) -> None:
    async with aiohttp.ClientSession() as client:
        for path in ("//evil.invalid/", "/\\evil.invalid/"):
            url = aiohttp.client.URL(f"{pages.base}{path}?token={pages.keys.token}", encoded=True)
            async with client.get(url, allow_redirects=False) as answer:
                location = answer.headers.get("Location", "/")
                assert re.match(r"/(?![/\\])", location), location


async def test_nothing_is_shown_without_the_token(pages: Served) -> None:
    for path in ("/", "/runs/story-1a2b", "/runs/story-1a2b/library", "/nothing"):
        assert await status(pages, path, signed_in=False) == 403
        assert (
            await status(pages, path, headers={"Cookie": "; ".join(cookies(pages, "guessed"))}, signed_in=False) == 403
        )
    assert await status(pages, "/?token=guessed", signed_in=False) == 403
    assert await status(pages, "/static/style.css", signed_in=False) == 200
    assert await status(pages, "/static/%2e%2e/site.py", signed_in=False) in (403, 404)


@pytest.mark.parametrize(
    "host", ["evil.invalid", "evil.invalid:80", "127.0.0.1.evil.invalid", "0.0.0.0", "localhost.evil"]
)
async def test_a_name_that_was_made_to_point_here_is_refused(pages: Served, host: str) -> None:
    assert await status(pages, "/", headers={"Host": host}) == 421
    assert await status(pages, "/static/style.css", headers={"Host": host}) == 421


async def test_every_answer_says_what_a_browser_may_do_with_it(pages: Served) -> None:
    async with aiohttp.ClientSession(cookies=cookies(pages)) as client:
        for path in ("/", "/runs/story-1a2b/library", "/static/style.css", "/nothing", "/runs/none-at-all"):
            async with client.get(pages.base + path) as answer:
                headers = answer.headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"


async def test_a_change_needs_cookie_origin_and_form_token(pages: Served) -> None:
    """Each alone is not enough; with all of them the answer is about the form, and not about who sent it."""
    url = f"{pages.base}/runs/story-1a2b/pin"
    good = {"Origin": pages.base, "Sec-Fetch-Site": "same-origin"}
    form = {"form_token": pages.keys.form, "version": "", "reason": ""}

    async def sent(headers: dict[str, str], fields: dict[str, str], signed_in: bool = True) -> int:
        async with (
            aiohttp.ClientSession(cookies=cookies(pages) if signed_in else {}) as client,
            client.post(url, headers=headers, data=fields, allow_redirects=False) as answer,
        ):
            return answer.status

    assert await sent(good, form) == 400, "a reason is missing, and nothing else"
    assert await sent(good, form, signed_in=False) == 403
    assert await sent(good, {"reason": "x"}) == 403
    assert await sent(good, form | {"form_token": pages.keys.token}) == 403
    assert await sent({}, form) == 403
    for headers in (
        {"Origin": "http://evil.invalid"},
        {"Origin": "null"},
        {"Origin": pages.base.replace("http", "https")},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        good | {"Sec-Fetch-Site": "none"},
    ):
        assert await sent(headers, form) == 403, headers
    assert pages.store.rows("pins", "story-1a2b") == []


async def test_a_get_changes_nothing(pages: Served) -> None:
    assert await status(pages, "/runs/story-1a2b/pin?version=&reason=x") == 405
    assert await status(pages, "/runs/story-1a2b/edit?op=Delete&id=G0&reason=x&author=x") == 200, "a form that asks"
    assert pages.store.rows("edits", "story-1a2b") == []


async def test_a_page_that_is_not_there_says_so_in_one_line(pages: Served) -> None:
    async with aiohttp.ClientSession(cookies=cookies(pages)) as client:
        for path, code, words in (
            ("/nothing", 404, "there is no page /nothing"),
            ("/runs/story", 404, "the newest that is called so is story-1a2b"),
            ("/runs/story-1a2b/lessons/G99", 404, "has no lesson"),
            ("/runs/story-1a2b/lessons/%3Cb%3E", 404, "is no id of a lesson"),
            ("/runs/story-1a2b/library?at=ffff", 404, "has no version"),
            ("/runs/story-1a2b/library?sort=colour", 400, "choose one of"),
            ("/runs/story-1a2b/story?before=x", 400, "expected a whole number"),
            ("/?before=x", 400, "expected MOMENT/RUN"),
            ("/runs/changes?since=", 400, "expected seconds"),
        ):
            async with client.get(pages.base + path) as answer:
                text = await answer.text()
                assert answer.status == code, path
                assert words in text, path
                assert "Traceback" not in text


def test_what_is_vendored_is_what_was_published() -> None:
    rows = re.findall(r"^\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|$", (STATIC / "VENDORED.md").read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {"htmx.min.js", "uplot.min.js", "uplot.min.css"}
    for name, wanted in rows:
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == wanted, name
    for licence in re.findall(r"`(\S+\.LICENSE\.txt)`", (STATIC / "VENDORED.md").read_text()):
        assert (STATIC / licence).stat().st_size > 200

"""Markdown: what a person would read of an HTML page, as text.

A page can be made to take hours. On CPython 3.11.7 html.parser needed 18 s for 200 kB of `<a`, markdownify 171 s for
200 kB of spaces. No thread can be ended, so `converted` works in a process of its own that is killed when its time is
over. It has the rights of this user, but inherits no variable that could hold a key: a bound, not a sandbox.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import Any, Literal
from urllib.parse import urljoin

from tokenprior.errors import MissingExtra
from tokenprior.text import bounded
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.pagetext import clean, decode

Extract = Literal["all", "main"]

HTML = ("text/html", "application/xhtml+xml")
MEMORY_BYTES = 2 << 30
MOST_CHARS = 4_000_000  # of a text: a cell of 18 bytes that spans 1000 columns becomes 2 kB
_NOT_READ = (
    "script", "style", "noscript", "template", "nav", "svg", "math", "iframe", "object", "canvas", "form", "button",
    "select", "dialog", "head", "audio", "video",
)  # fmt: skip
_DECLARATION = re.compile(r"\A\s*(?:<\?xml\b[^>]*>)?\s*(?:<!doctype\b[^>]*>)?", re.I)
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from tokenprior.tools.markdown import _child; _child(sys.argv[2])"
)


def is_html(media_type: str) -> bool:
    """Whether a body of this type is converted."""
    return media_type in HTML


def is_readable(media_type: str) -> bool:
    """Whether a body of this type is text: HTML, plain text and its kin, JSON or XML."""
    return (
        is_html(media_type)
        or media_type in ("application/json", "application/xml", "application/x-ndjson")
        or media_type in ("text/plain", "text/xml", "text/markdown", "text/csv", "text/x-markdown")
        or (media_type.startswith("application/") and media_type.endswith(("+json", "+xml")))
    )


def need(extract: Extract = "all") -> None:
    """Check that what converts pages is installed.

    Raises:
        MissingExtra: it is not.
    """
    if importlib.util.find_spec("markdownify") is None:
        raise MissingExtra("markdownify", "web", "reading HTML pages")
    # trafilatura needs the second, and does not get it from every pip: its name is written in two ways.
    for package in ("trafilatura", "lxml_html_clean") if extract == "main" else ():
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "web-full", "extract: main")


def converted(body: bytes, *, url: str, charset: str | None, extract: Extract, timeout_s: float) -> str:
    """The text of an HTML page, made in a process of its own. Blocks: call it in a thread.

    Raises:
        ToolFailed: it took longer than `timeout_s` or more than 2 GiB of memory.
    """
    job = json.dumps({"url": url, "charset": charset, "extract": extract})
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), job],
            input=body,
            capture_output=True,
            timeout=timeout_s,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailed(f"the page could not be turned into text within {timeout_s:g} s") from error
    except OSError as error:
        raise ToolFailed("the page could not be turned into text: no process for it") from error
    if ended.returncode == 3:
        raise ToolFailed(ended.stdout.decode("utf-8", "replace"))
    if ended.returncode != 0:
        raise ToolFailed("the page could not be turned into text")
    return ended.stdout.decode("utf-8", "replace")


def _child(job: str) -> None:
    """Bytes of a page on stdin, its text on stdout; exit code 3 with the reason if it has none."""
    if sys.platform != "win32":
        import resource
        import signal

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # or the parent would wait for us after Ctrl-C
    given: dict[str, Any] = json.loads(job)
    body = sys.stdin.buffer.read()
    try:
        text = to_markdown(decode(body, given["charset"]), url=given["url"], extract=given["extract"])[1]
    except ToolFailed as error:
        sys.stdout.buffer.write(str(error).encode())
        sys.exit(3)
    sys.stdout.buffer.write(bounded(text, MOST_CHARS).encode("utf-8", "replace"))


def to_markdown(html: str, *, url: str = "", extract: Extract = "all") -> tuple[str, str]:
    """Title and text of a page. The text begins with the title. Takes any time on a hostile page.

    Args:
        html: the page.
        url: what its links are relative to; without it they stay as they are.
        extract: `all` that is shown but navigation and what one clicks, or what trafilatura takes for the `main` text.

    Raises:
        ToolFailed: the parser gives up on it.
    """
    # Long runs of white space mean nothing, and markdownify is quadratic in them.
    html = re.sub(r"[ \t\r\n\f\xa0]{64,}", lambda run: "\n\n" if "\n" in run[0] else " ", clean(html))
    html = html.replace("<![", "<! [")  # html.parser breaks off at `<![0`; in HTML all of these are comments
    html = _DECLARATION.sub("", html, count=1)  # or the parser warns that it reads XML as HTML
    if "<" not in html:
        return "", html.strip()
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    try:
        page = BeautifulSoup(html, "html.parser")  # the same everywhere, where lxml is not
    except ParserRejectedMarkup as error:
        raise ToolFailed("the page is not HTML that can be read") from error
    title = " ".join(page.title.get_text().split())[:300] if page.title else ""
    text = _main_text(html, url) if extract == "main" else _all_text(page, url)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\xa0]+\n", "\n", text)).strip()
    return title, f"{title}\n\n{text}" if title and not text.lstrip("# ").startswith(title) else text


def _all_text(page: Any, url: str) -> str:
    from markdownify import MarkdownConverter

    for tag in page.find_all([*_NOT_READ, lambda tag: tag.has_attr("hidden")]):
        if tag.name != "form":
            tag.extract()
        else:
            tag.unwrap()  # some sites put the whole page into one
    for link in page.find_all("a", href=True):
        if target := _target(url, str(link["href"])):
            link["href"] = target
        else:
            link.unwrap()
    try:
        # The options of markdownify that would escape are for Markdown that is shown again; here it is read.
        text: str = MarkdownConverter(
            heading_style="ATX", strip=["img"], escape_asterisks=False, escape_underscores=False, escape_misc=False
        ).convert_soup(page)
    except Exception:  # RecursionError on some hundred unclosed <p>, ValueError on <ol start="½">, and who knows
        text = page.get_text("\n")
    return text


def _target(url: str, href: str) -> str | None:
    """Where a link leads, or `None` if a reader cannot follow it."""
    try:
        target = urljoin(url, href.strip()) if url else href.strip()
    except ValueError:
        return None
    if not target or target.startswith("#") or len(target) > 500:
        return None
    return None if re.match(r"(?i)(?:javascript|data|mailto|tel|blob):", target) else target


def _main_text(html: str, url: str) -> str:
    from trafilatura import extract as main_text

    # Its own fallbacks read what this finds nothing in; an empty text is for a page without any.
    return main_text(html, url=url or None, output_format="markdown", include_links=True, include_tables=True) or ""

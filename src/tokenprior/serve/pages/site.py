"""Site: what every page stands on: the store, the frame that it is shown in, and how texts of others are shown.

Texts come from models, from data and from the web. Every value is escaped by the template, and `seen` makes visible
what a reader could not see: control characters and marks that turn the direction of writing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tokenprior.errors import ConfigError, NotFound
from tokenprior.exports.page import TEMPLATES, filters
from tokenprior.serve.pages.security import Keys
from tokenprior.serve.pages.words import PHASES
from tokenprior.store import RunRecord, Store
from tokenprior.text import many, seen

T = TypeVar("T")

LONG = 4_000  # characters of a text that are shown before it is cut
PER_PAGE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pages show, and where.

    Attributes:
        naming: how a printed command names the store; begins with a space, or is empty where it is the usual one.
        folder: that the pages were started in: where the start form looks for data and writes configs.
    """

    store: Store
    keys: Keys
    naming: str = ""
    folder: Path = field(default_factory=Path)


SITE: web.AppKey[Site] = web.AppKey("site", Site)


def address(path: str, **query: object) -> str:
    """An address on the site; parts of the path are to be quoted by `quoted`, values of the query are here."""
    given = {key: str(value) for key, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given)}" if given else path


def quoted(part: object) -> str:
    """A text as one part of a path."""
    return quote(str(part), safe="")


async def ask(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call what asks the store in a thread, so that a slow answer holds up nobody else."""
    return await asyncio.to_thread(partial(function, *arguments, **options))


async def run_of(request: web.Request) -> RunRecord:
    """The run that the address names, which has to be its whole id.

    Raises:
        NotFound: there is none.
    """
    wanted = request.match_info["run"]
    found = await ask(request.app[SITE].store.find_run, wanted)
    if found.id != wanted:
        raise NotFound(f"no run {wanted!r}: the newest that is called so is {found.id}")
    return found


def number_of(request: web.Request, name: str) -> int | None:
    """A whole number of the address's query; `None` if it is not there.

    Raises:
        ConfigError: it is no number.
    """
    text = request.query.get(name)
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise ConfigError(f"{name}={text[:40]}: expected a whole number")
    return int(text)


def render(request: web.Request, template: str, /, status: int = 200, **values: Any) -> web.Response:
    """A page, or with a template that does not extend the frame a part of one.

    Args:
        values: for the template, beside `here` (the path) and `form_token` (for every form that changes something).
    """
    site = request.app[SITE]
    text = _TEMPLATES.get_template(template).render(
        here=request.path, form_token=site.keys.form, naming=site.naming, now=time.time(), **values
    )
    return web.Response(text=text.encode("utf-8", "replace").decode(), status=status, content_type="text/html")


def plain_text(text: str, name: str | None = None) -> web.Response:
    """A text as it is, which no browser takes for anything else.

    Args:
        name: of the file that the browser is to save it as; shown in the browser if there is none.
    """
    body = text.encode("utf-8", "backslashreplace")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"} if name else {}
    return web.Response(body=body, content_type="text/plain", charset="utf-8", headers=headers)


def _finalize(value: Any) -> Any:
    return seen(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def money(usd: float | None) -> str:
    """Dollars, or that they are not known."""
    if usd is None:
        return "cost unknown"
    return "$0" if not usd else f"${usd:.4f}".rstrip("0").rstrip(".") if usd < 1 else f"${usd:,.2f}"


def count(number: float | None) -> str:
    """A large number in a few signs: 1,234, 12.3k, 4.5M."""
    if number is None:
        return "–"
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if abs(number) >= 10 * size:
            return f"{number / size:.0f}{unit}" if abs(number) >= 100 * size else f"{number / size:.1f}{unit}"
    return f"{number:,.0f}"


def odds(share: float) -> str:
    """A share of cases in words: 47%, 0.5%, fewer than 0.1%."""
    return "fewer than 0.1%" if share < 0.001 else f"{share:.1%}" if share < 0.01 else f"{share:.0%}"


def moment(at: float) -> str:
    """A time of day, with its date."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def ago(at: float, now: float) -> str:
    """How long ago something was, roughly."""
    seconds = max(0.0, now - at)
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return f"{many(int(seconds // size), unit)} ago"
    return "just now" if seconds < 10 else f"{int(seconds)} seconds ago"


def lasting(seconds: float) -> str:
    """How long something took."""
    minutes = round(seconds / 60)
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= filters() | {
        "money": money,
        "count": count,
        "odds": odds,
        "moment": moment,
        "lasting": lasting,
        "quoted": quoted,
    }
    globals_: Mapping[str, Any] = {"address": address, "many": many, "ago": ago, "LONG": LONG, "PHASES": PHASES}
    made.globals |= globals_
    return made


_TEMPLATES = _environment()

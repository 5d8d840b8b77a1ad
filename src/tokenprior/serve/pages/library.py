"""The library: lessons with what they were measured to do, those that are gone, every version, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from markupsafe import Markup

from tokenprior.errors import ConfigError
from tokenprior.experience import Effect, Experience
from tokenprior.exports import FORMATS, export
from tokenprior.library import Library, estimate_tokens
from tokenprior.plot import plot, strip, tone_of
from tokenprior.prior import TokenPrior
from tokenprior.serve.pages.edit import author
from tokenprior.serve.pages.run import gated
from tokenprior.serve.pages.site import SITE, ask, plain_text, quoted, render, run_of
from tokenprior.serve.pages.words import word_diff
from tokenprior.store import RunRecord, Store
from tokenprior.store.life import effects_of, gone_of

SORTS = ("prompt", "effect", "tokens", "age", "scope")
MOST_GONE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A lesson in the table.

    Attributes:
        effect: measured of these very words; `None` if it was not.
        strip: its effect as a dot with a whisker, over the one scale of the table.
        tokens: about how many it takes in a prompt.
        age: finished steps since these words were written; `None` where they came from elsewhere.
        used, learning: whether these words are in what is used, and in what learning goes on from.
    """

    experience: Experience
    effect: Effect | None
    strip: Markup
    tone: str
    tokens: int
    age: int | None
    used: bool
    learning: bool


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}/library", library),
        web.get("/runs/{run}/library/diff", diff),
        web.get("/runs/{run}/library/export", exported),
        web.get("/runs/{run}/versions", versions),
    ]


async def library(request: web.Request) -> web.Response:
    """The lessons of a version, what is used by default."""
    record = await run_of(request)
    at, sort = request.query.get("at") or None, request.query.get("sort", SORTS[0])
    if sort not in SORTS:
        raise ConfigError(f"sort={sort[:40]}: choose one of {', '.join(SORTS)}")
    values = await ask(_shown, request.app[SITE].store, record, at, sort)
    return render(request, "library.html", run=record, at=at, sort=sort, sorts=SORTS, forms=FORMATS, **values)


async def diff(request: web.Request) -> web.Response:
    """What became of one version in another, lesson by lesson."""
    record = await run_of(request)
    store = request.app[SITE].store
    before = await ask(store.library, record.id, request.query.get("before") or None)
    after = await ask(store.library, record.id, request.query.get("after") or None)
    known = await ask(store.versions, record.id)
    return render(
        request, "diff.html", run=record, before=before, after=after, rows=_differences(before, after), versions=known
    )


async def exported(request: web.Request) -> web.Response:
    """A version in one of the export forms, to be saved."""
    record = await run_of(request)
    form, at = request.query.get("form", "text"), request.query.get("at") or None
    found = await ask(request.app[SITE].store.library, record.id, at)
    text = await ask(export, found, form)
    return plain_text(text, FORMATS[form].saved.format(f"{record.name}-{found.version}"))


async def versions(request: web.Request) -> web.Response:
    """Every version with its evidence, the newest first, and which one is used."""
    record = await run_of(request)
    store = request.app[SITE].store
    found = await ask(store.versions, record.id)
    used = await ask(store.library, record.id)
    pins = await ask(store.rows, "pins", record.id)
    return render(
        request, "versions.html", run=record, versions=found[::-1], used=used.version, pins=pins[::-1], author=author()
    )


def _shown(store: Store, record: RunRecord, at: str | None, sort: str) -> dict[str, Any]:
    steps = store.rows("steps", record.id, without=("observations",))
    shown, used = store.library(record.id, at), store.library(record.id)
    learning = Library.from_json(steps[-1]["library"]) if steps else used
    pins = store.rows("pins", record.id)
    lines = _lines(shown, steps, used, learning)
    gone = gone_of(store, record.id) if at is None else []
    return {
        "base": f"/runs/{quoted(record.id)}",
        "library": shown,
        "used": used,
        "learning": learning,
        "pin": pins[-1] if pins and pins[-1]["version"] else None,
        "lines": sorted(lines, key=_order(sort)),
        "prior_tokens": estimate_tokens(TokenPrior.of(shown).text) if len(shown) else 0,
        "gone": gone[:MOST_GONE],
        "more_gone": max(0, len(gone) - MOST_GONE),
        "waiting": _waiting(used, learning, steps) if at is None else [],
        "undo": pins[-2]["version"] if len(pins) > 1 else None,
        "edited": any(row["edited_version"] == used.version for row in store.rows("edits", record.id)),
        "gated": gated(store, record),
        "author": author(),
    }


def _waiting(used: Library, learning: Library, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What learning goes on with and is not used in these words, each with how that came: `how` is empty for what waits
    to be proven, and says so of what a person replaced and of what says the same as another lesson that is used."""
    ships = Library.from_json(steps[-1]["shipped"]) if steps else used
    shipped = {one.id: one.line for one in ships}
    same = {one.line: one.id for one in used}
    rows: list[dict[str, Any]] = []
    for one in learning:
        if one.id in used and used[one.id].line == one.line:
            continue
        how = "replaced or taken out by hand" if shipped.get(one.id) == one.line else ""
        how = f"the words of {same[one.line]}, which is used" if one.line in same else how
        rows.append({"experience": one, "how": how})
    return rows


def _lines(shown: Library, steps: Sequence[dict[str, Any]], used: Library, learning: Library) -> list[Line]:
    effects = effects_of(steps)
    measured = {e.id: effects.get((e.id, e.line)) or e.effect for e in shown}
    rows = [
        (identity, {"mean": effect.mean, "low": effect.low, "high": effect.high}, tone_of(effect.low, effect.high))
        for identity, effect in measured.items()
        if effect
    ]
    scale = plot("Effects", rows, must=(0.0,), line=(0.0, "no effect"), signed=True)
    strips = {one.label: (Markup(strip(scale, one)), one.tone) for one in scale.whiskers}  # `strip` escapes
    last = steps[-1]["step"] if steps else 0
    return [
        Line(
            experience=e,
            effect=measured[e.id],
            strip=strips.get(e.id, (Markup(), ""))[0],
            tone=strips.get(e.id, (Markup(), ""))[1],
            tokens=estimate_tokens(e.line),
            age=None if e.provenance.run.startswith("import:") else max(0, last - e.provenance.step),
            used=e.id in used and used[e.id].line == e.line,
            learning=e.id in learning and learning[e.id].line == e.line,
        )
        for e in shown
    ]


def _order(sort: str) -> Any:
    """The best first; what is not known last."""
    return {
        "prompt": lambda line: 0,
        "effect": lambda line: (line.effect is None, -line.effect.mean if line.effect else 0.0),
        "tokens": lambda line: -line.tokens,
        "age": lambda line: (line.age is None, -(line.age or 0)),
        "scope": lambda line: -line.experience.support,
    }[sort]


def _differences(before: Library, after: Library) -> list[dict[str, Any]]:
    """The lessons that differ, in the order of the first library and then of the second."""
    rows: list[dict[str, Any]] = []
    for identity in dict.fromkeys([*(e.id for e in before), *(e.id for e in after)]):
        old = before[identity].line if identity in before else None
        new = after[identity].line if identity in after else None
        if old != new:
            pieces = word_diff(old, new) if old is not None and new is not None else None
            rows.append({"id": identity, "old": old, "new": new, "pieces": pieces})
    return rows

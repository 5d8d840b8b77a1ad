"""A lesson: its life, what it does, the attempts it came from, and what a person may do with it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tokenprior.errors import ConfigError, NotFound
from tokenprior.experience import Effect, parse_id
from tokenprior.plot import plot, svg, tone_of
from tokenprior.serve.pages.edit import author
from tokenprior.serve.pages.site import SITE, ask, quoted, render, run_of
from tokenprior.store import RunRecord, Store
from tokenprior.store.life import gone_of, life_of

MOST_GROUPS = 40  # of those that a lesson came from

VERBS = {"Add": "new", "Modify": "reworded", "Merge": "merged", "Delete": "deleted", "Keep": "found again"}


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}/lessons/{id}", lesson),
        web.post("/runs/{run}/pin", pinned),
    ]


async def lesson(request: web.Request) -> web.Response:
    """One lesson, be it there or gone."""
    record = await run_of(request)
    found = await ask(_everything, request.app[SITE].store, record, request.match_info["id"])
    return render(request, "lesson.html", run=record, author=author(), **found)


async def pinned(request: web.Request) -> web.Response:
    """Use one version from now on, or with none what learning ships."""
    record = await run_of(request)
    form = await request.post()
    reason = str(form.get("reason", "")).strip()
    if not reason:
        raise ConfigError("choosing a version needs a reason, for whoever reads the history")
    version = str(form.get("version", "")) or None
    await ask(request.app[SITE].store.pin, record.id, version, f"{reason} (by {str(form.get('author', ''))[:80]})")
    raise web.HTTPSeeOther(f"/runs/{quoted(record.id)}/library")


def _everything(store: Store, record: RunRecord, text: str) -> dict[str, Any]:
    identity = parse_id(text)
    if identity is None:
        raise NotFound(f"{text[:40]!r} is no id of a lesson, such as G3")
    found = life_of(store, record.id, identity)
    used = store.library(record.id)
    effect = Effect(**found["effect"]) if found["effect"] else None
    picture = None
    if effect:
        interval = {"mean": effect.mean, "low": effect.low, "high": effect.high}
        row = (f"{effect.tasks} tasks", interval, tone_of(effect.low, effect.high))
        picture = svg(plot("Effect on the reward", [row], must=(0.0,), line=(0.0, "no effect"), signed=True))
    is_gone = found["used"] is None and found["learning"] is None
    return {
        "found": found,
        "gone": next((one for one in gone_of(store, record.id) if one["id"] == identity), None) if is_gone else None,
        "at_the_gate": _at_the_gate(found),
        "verbs": VERBS,
        "effect": effect,
        "tone": tone_of(effect.low, effect.high) if effect else "",
        "picture": picture,
        "groups": found["groups"][:MOST_GROUPS],
        "more_groups": max(0, len(found["groups"]) - MOST_GROUPS),
        "contrasts": {(one["step"], task): one for one in found["contrasts"] for task in one["groups"]},
        "lesson": next((one for one in used if one.id == identity), None),
        "made_from": used.version,
    }


def _at_the_gate(found: dict[str, Any]) -> dict[str, Any] | None:
    """The last trial of a library that the words of a lesson came in with."""
    tried = [e for e in found["life"] if e["kind"] == "trial" and e["candidate"] == "with it"]
    return tried[-1] if tried else None

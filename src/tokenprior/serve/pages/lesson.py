"""A lesson: its life, what it does, the attempts it came from, and what a person may do with it."""

from __future__ import annotations

import getpass
from typing import Any

from aiohttp import web

from tokenprior.errors import ConfigError, NotFound
from tokenprior.experience import Effect, parse_id
from tokenprior.operation import Add, Delete, Merge, Modify, Operation
from tokenprior.plot import plot, svg, tone_of
from tokenprior.serve.pages.site import SITE, ask, quoted, render, run_of
from tokenprior.store import RunRecord, Store
from tokenprior.store.edits import edit
from tokenprior.store.life import gone_of, life_of

MOST_GROUPS = 40  # of those that a lesson came from

VERBS = {"Add": "new", "Modify": "reworded", "Merge": "merged", "Delete": "deleted", "Keep": "found again"}


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}/lessons/{id}", lesson),
        web.get("/runs/{run}/edit", merge_form),
        web.post("/runs/{run}/edit", edited),
        web.post("/runs/{run}/pin", pinned),
    ]


async def lesson(request: web.Request) -> web.Response:
    """One lesson, be it there or gone."""
    record = await run_of(request)
    found = await ask(_everything, request.app[SITE].store, record, request.match_info["id"])
    return render(request, "lesson.html", run=record, author=_author(), **found)


async def merge_form(request: web.Request) -> web.Response:
    """A form to add a lesson, or to make one of those that were chosen."""
    record = await run_of(request)
    used = await ask(request.app[SITE].store.library, record.id)
    ids = [identity for identity in request.query.getall("id", []) if identity in used]
    if len(ids) == 1:
        raise ConfigError("a merge needs at least two lessons: go back and choose another one too")
    return render(request, "edit.html", run=record, author=_author(), used=used, chosen=[used[i] for i in ids])


async def edited(request: web.Request) -> web.Response:
    """Carry out an operation by hand, on the version that its form was made from."""
    record = await run_of(request)
    form = await request.post()
    given = {key: str(value) for key, value in form.items()}
    operation = _operation(given, [str(one) for one in form.getall("id", [])])
    await ask(
        edit,
        request.app[SITE].store,
        record.id,
        [operation],
        author=given.get("author", ""),
        reason=given.get("reason", ""),
        made_from=given.get("made_from", ""),
    )
    raise web.HTTPSeeOther(f"/runs/{quoted(record.id)}/library")


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


def _operation(given: dict[str, str], ids: list[str]) -> Operation:
    name, text = given.get("name", ""), given.get("text", "")
    match given.get("op"):
        case "Add":
            return Add(name=name, text=text)
        case "Modify" if ids:
            return Modify(id=ids[0], name=name, text=text)
        case "Delete" if ids:
            return Delete(id=ids[0])
        case "Merge":
            return Merge(ids=tuple(ids), name=name, text=text)
        case other:
            raise ConfigError(f"op={str(other)[:40]}: expected Add, Modify, Merge or Delete, with an id")


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return ""


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

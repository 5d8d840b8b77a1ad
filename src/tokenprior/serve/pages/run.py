"""A run: where it stands now, its curves, what went wrong, and its story in words.

What moves is fetched in parts: `live` answers with nothing while nothing changed, and brings the steps along only when
one more is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from tokenprior.adaptive import GroupPlan
from tokenprior.config import LearnConfig
from tokenprior.errors import ConfigError
from tokenprior.serve.pages.control import control_of
from tokenprior.serve.pages.site import PER_PAGE, SITE, Site, address, ask, number_of, quoted, render, run_of
from tokenprior.store import RunRecord, Store, look
from tokenprior.store.compared import not_measured
from tokenprior.store.story import story_of

CHAPTERS = 10  # steps told on one page
SILENT_S = 120.0  # a run that was not heard of for so long may have been killed


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}", run),
        web.get("/runs/{run}/live", live),
        web.get("/runs/{run}/story", story),
        web.get("/runs/{run}/attempts", attempts),
    ]


async def run(request: web.Request) -> web.Response:
    """The whole page."""
    record = await run_of(request)
    site = request.app[SITE]
    return render(request, "run.html", **await ask(_now, site, record), **await ask(_steps, site.store, record))


async def live(request: web.Request) -> web.Response:
    """What changed since a moment: where the run stands, and its steps if there are more than `steps`; else nothing."""
    record = await run_of(request)
    if repr(record.updated_at) == request.query.get("since"):
        return web.Response(status=204)
    site = request.app[SITE]
    values = await ask(_now, site, record)
    moved = str(values["stands"].finished) != request.query.get("steps")
    if moved or record.state != "running":
        values |= await ask(_steps, site.store, record)
        moved = True
    return render(request, "run_live.html", **values, moved=moved)


async def story(request: web.Request) -> web.Response:
    """Earlier steps of the story."""
    record = await run_of(request)
    before = number_of(request, "before")
    chapters, earlier = await ask(_chapters, request.app[SITE].store, record, before)
    told: dict[str, Any] = {
        "chapters": chapters,
        "earlier": earlier,
        "gated": await ask(gated, request.app[SITE].store, record),
    }
    return render(request, "run_story.html", run=record, before=before, **told)


async def attempts(request: web.Request) -> web.Response:
    """Attempts that have no reward for one reason, each with what is known of it."""
    record = await run_of(request)
    phase, trouble = request.query.get("phase", "rollout"), request.query.get("trouble", "")
    after = _place(request.query.get("after", ""))
    found = await ask(
        look.troubled, request.app[SITE].store, record.id, phase, trouble, after=after, limit=PER_PAGE + 1
    )
    shown, older = found[:PER_PAGE], None
    if len(found) > PER_PAGE:
        last = "/".join(str(shown[-1][name]) for name in ("phase", "step", "attempt", "input_hash", "task"))
        older = address(request.path, phase=phase, trouble=trouble, after=last)
    first = address(request.path, phase=phase, trouble=trouble) if after else None
    return render(
        request, "attempts.html", run=record, phase=phase, trouble=trouble, rows=shown, older=older, first=first
    )


def _now(site: Site, record: RunRecord) -> dict[str, Any]:
    """What moves all the time: nothing in it takes longer for a longer run."""
    stands = look.standing(site.store, record)
    return {
        "run": record,
        "base": f"/runs/{quoted(record.id)}",
        "doing": look.doing(record),
        "silent_s": SILENT_S,
        "stands": stands,
        "not_measured": not_measured(site.store, record, stands.compared[0]) if stands.compared else "",
        "budget": _budget(record, stands),
        "control": control_of(site, record),
    }


def _steps(store: Store, record: RunRecord) -> dict[str, Any]:
    """What moves when a step is finished."""
    steps = look.steps(store, record.id, plan=group_plan(record))
    chapters, earlier = _chapters(store, record, None)
    return {
        "steps": steps,
        "totals": look.totals(store, record.id),
        "held_at": _held_at(record, steps, look.held_out(store, record.name)),
        "chapters": chapters,
        "earlier": earlier,
        "gated": gated(store, record),
    }


def learn_config(record: RunRecord) -> LearnConfig | None:
    """How a run learned, as far as the store knows."""
    try:
        return LearnConfig.model_validate(record.config["learn"]).resolved()
    except (KeyError, ValidationError):  # a run that was made in Python, or by another version
        return None


def group_plan(record: RunRecord) -> GroupPlan | None:
    """How a run made its groups; `None` if it is not known."""
    config = learn_config(record)
    return config.group_plan if config else None


def gated(store: Store, record: RunRecord) -> bool:
    """Whether what a run learned had to pass a gate; where its config is not known, whether anything was tried."""
    config = learn_config(record)
    return config.gate != "none" if config else look.was_tried(store, record.id)


def _chapters(store: Store, record: RunRecord, before: int | None) -> tuple[list[Any], str | None]:
    """Some steps of the story, and where those before them are."""
    chapters = story_of(store, record.id, before=before, limit=CHAPTERS, plan=group_plan(record))
    first = chapters[-1].step if chapters else 0
    return chapters, address(f"/runs/{quoted(record.id)}/story", before=first) if first > 0 else None


def _budget(record: RunRecord, stands: look.Standing) -> list[tuple[str, float, float]]:
    """Of each limit that was set: its name, what is spent and what may be."""
    limits, spent = record.config.get("budget") or {}, stands.spent
    known = {
        "usd": spent.cost_usd or 0.0,
        "tokens": float(spent.input_tokens + spent.output_tokens),
        "calls": float(spent.calls),
    }
    return [(name, known[name], float(limits[name])) for name in known if limits.get(name)]


def _held_at(
    record: RunRecord, steps: Sequence[look.StepFigures], held_out: Sequence[look.HeldOut]
) -> dict[int, look.HeldOut]:
    """By step, the newest score on held-out tasks of what shipped from then on; under -1 that of what it began with."""
    if record.kind != "learn":
        return {}
    first = {record.start.version: -1}
    for one in steps:
        first.setdefault(one.shipped, one.step)
    made: dict[int, look.HeldOut] = {}
    for arm in held_out:
        step = first.get(arm.report["library_version"])
        if arm.report["score"] and step is not None:
            made.setdefault(step, arm)
    return made


def _place(text: str) -> look.Place | None:
    if not text:
        return None
    phase, step, attempt, made_of, task = ([*text.split("/", 4), "", "", "", ""])[:5]
    if not (step.lstrip("-").isdecimal() and attempt.isdecimal()):
        raise ConfigError(f"after={text[:80]}: expected a place as the page before gives it")
    return phase, int(step), task, int(attempt), made_of

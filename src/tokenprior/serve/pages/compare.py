"""Comparison: arms with intervals, the verdict, what more evidence would cost, and the attempts behind each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tokenprior.comparison import task_gains
from tokenprior.errors import ConfigError, NotFound
from tokenprior.exports.page import shown
from tokenprior.serve.pages.group import shown_attempt
from tokenprior.serve.pages.site import PER_PAGE, SITE, address, ask, number_of, quoted, render, run_of
from tokenprior.store import RunRecord, Store
from tokenprior.store.attempts import asked_in, attempts_of
from tokenprior.store.compared import attempts_by_arm, comparison_of, comparisons_of, more_evidence, not_measured

SORTS = ("gain", "loss", "task")
SHOWS = ("better", "worse", "equal", "unscored")
MOST_COMPARISONS = 20
MOST_ATTEMPTS = 8  # of one arm at one task, side by side

Row = dict[str, Any]


def routes() -> list[web.RouteDef]:
    return [web.get("/runs/{run}/comparison", comparison), web.get("/runs/{run}/comparison/task", task)]


async def comparison(request: web.Request) -> web.Response:
    """The comparison of a run: its own, or of a run that learned the newest of its name."""
    run = await run_of(request)
    of, found, others = await ask(_found, request.app[SITE].store, run)
    if found is None:
        return render(request, "comparison_none.html", run=run, others=others)
    arm = request.query.get("arm") or (found["differences"][0]["arm"] if found["differences"] else "")
    sort, show = _choice(request, "sort", SORTS), _choice(request, "show", SHOWS)
    rows = _tasks(found, arm)
    chosen = [row for row in rows if show is None or row["how"] == show]
    chosen.sort(key=_order(sort or "gain"))
    begin = max(0, number_of(request, "from") or 0)
    page = chosen[begin : begin + PER_PAGE]
    links = {"sort": sort, "show": show, "arm": request.query.get("arm")}
    return render(
        request,
        "compare.html",
        run=run,
        of=of,
        found=found,
        not_measured=await ask(not_measured, request.app[SITE].store, run, of),
        others=[one for one in others if one["run"] != of],
        evidence={one["arm"]: more_evidence(found, one) for one in found["differences"]},
        arm=arm,
        rows=page,
        questions=await ask(asked_in, request.app[SITE].store, of, "evaluate", [row["task"] for row in page]),
        total=len(chosen),
        begin=begin,
        counts={how: sum(row["how"] == how for row in rows) for how in SHOWS},
        links=links,
        sorts=SORTS,
        newer=address(request.path, **links) if begin else None,
        older=address(request.path, **links, **{"from": begin + PER_PAGE}) if begin + PER_PAGE < len(chosen) else None,
        **shown(found),
    )


async def task(request: web.Request) -> web.Response:
    """The attempts at one task, arm by arm."""
    run, store = await run_of(request), request.app[SITE].store
    name = request.query.get("task", "")
    of, found, _ = await ask(_found, store, run)
    if found is None:
        raise NotFound(f"run {run.id} has no comparison")
    rows = await ask(attempts_of, store, of, "evaluate", 0, name)
    at = f"/runs/{quoted(of)}"
    arms = [
        {"arm": arm, "attempts": [shown_attempt(row, at) for row in some[:MOST_ATTEMPTS]], "count": len(some)}
        for arm, some in attempts_by_arm(found, rows, name).items()
    ]
    first = shown_attempt(rows[0], at)["conversation"]
    question = next((one for one in first if one["role"] == "user"), {"text": "", "whole": ""})
    return render(request, "compare_task.html", run=run, task=name, arms=arms, question=question)


def _found(store: Store, run: RunRecord) -> tuple[str, Row | None, list[Row]]:
    """The run that holds the comparison, the comparison, and others of the same name."""
    others = comparisons_of(store, run.name, limit=MOST_COMPARISONS)
    of = run.id if run.kind != "learn" or not others else str(others[0]["run"])
    return of, comparison_of(store, of), others


def _tasks(found: Row, arm: str) -> list[Row]:
    """Every task with its rewards by arm, and how the chosen arm did against the baseline."""
    arms: list[Row] = found["arms"]
    if not any(one["arm"] == arm for one in arms) and arm:
        raise ConfigError(f"arm={arm[:80]}: there is no such arm; there are {', '.join(one['arm'] for one in arms)}")
    baseline: Mapping[str, Any] = arms[0]["tasks"] if arms else {}
    chosen: Mapping[str, Any] = next((one["tasks"] for one in arms if one["arm"] == arm), {})
    gains = task_gains(chosen, baseline)
    rows: list[Row] = []
    for place, name in enumerate(baseline):
        gain = gains.get(name)
        how = "unscored" if gain is None else "better" if gain > 0 else "worse" if gain < 0 else "equal"
        rewards: Sequence[Any] = [one["tasks"].get(name, ()) for one in arms]
        rows.append({"task": name, "place": place, "rewards": rewards, "gain": gain, "how": how})
    return rows


def _order(sort: str) -> Any:
    match sort:
        case "task":
            return lambda row: row["task"]
        case "loss":
            return lambda row: (row["gain"] is None, row["gain"] or 0.0, row["place"])
        case _:
            return lambda row: (row["gain"] is None, -(row["gain"] or 0.0), row["place"])


def _choice(request: web.Request, name: str, known: Sequence[str]) -> str | None:
    given = request.query.get(name) or None
    if given is not None and given not in known:
        raise ConfigError(f"{name}={given[:40]}: expected one of {', '.join(known)}")
    return given

"""Runs: all of them, the newest first; those that are on their way move."""

from __future__ import annotations

from aiohttp import web

from tokenprior.errors import ConfigError
from tokenprior.serve.pages.site import PER_PAGE, SITE, address, ask, render
from tokenprior.store import look


def routes() -> list[web.RouteDef]:
    return [web.get("/", runs), web.get("/runs/changes", changes)]


async def runs(request: web.Request) -> web.Response:
    """A page of the list; `before` is where the one before it ended."""
    before = request.query.get("before")
    place = _place(before) if before else None
    lines = await ask(look.runs, request.app[SITE].store, before=place, limit=PER_PAGE + 1)
    shown, more = lines[:PER_PAGE], lines[PER_PAGE:]
    older = address("/", before=f"{shown[-1].run.created_at!r}/{shown[-1].run.id}") if more else None
    since = max((line.run.updated_at for line in shown), default=0.0)
    return render(request, "runs.html", lines=shown, older=older, paged=before is not None, since=since)


async def changes(request: web.Request) -> web.Response:
    """The lines of the runs that moved since a moment; nothing if none did."""
    try:
        since = float(request.query.get("since", ""))
    except ValueError as error:
        raise ConfigError("since: expected seconds since 1970") from error
    lines = await ask(look.runs, request.app[SITE].store, since=since, limit=PER_PAGE)
    if not lines:
        return web.Response(status=204)
    newest = max(line.run.updated_at for line in lines)
    return render(request, "runs_changes.html", lines=lines, before=since, since=newest)


def _place(text: str) -> tuple[float, str]:
    at, _, run = text.partition("/")
    try:
        return float(at), run
    except ValueError as error:
        raise ConfigError(f"before={text}: expected MOMENT/RUN") from error

"""Report: a run as one file to send: its story, its library, its comparison. It needs neither these pages nor a store.

Keys are taken out of it, and unless that is asked for otherwise what looks private too; see `private`.
"""

from __future__ import annotations

import platform
import time
from functools import cache

from aiohttp import web

from tokenprior import __version__
from tokenprior.errors import NotFound
from tokenprior.exports.page import cleaned, comparison_page, learned_page
from tokenprior.private import masked
from tokenprior.redact import redact
from tokenprior.serve.pages.run import gated, group_plan
from tokenprior.serve.pages.site import SITE, ask, quoted, run_of
from tokenprior.store import RunRecord, Store
from tokenprior.store.compared import comparison_of
from tokenprior.store.report import circumstances, date_words, report_of


def routes() -> list[web.RouteDef]:
    return [web.get("/runs/{run}/report", report)]


async def report(request: web.Request) -> web.Response:
    """The file, to be saved: what it looks like is its own, which the policy of these pages would forbid."""
    run = await run_of(request)
    text = await ask(page_of, request.app[SITE].store, run)
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quoted(run.id)}.html"}
    return web.Response(text=text, content_type="text/html", headers=headers)


def page_of(store: Store, run: RunRecord, *, mask: bool = True) -> str:
    """The page of a run.

    Args:
        mask: whether what looks private is masked.

    Raises:
        NotFound: it is neither a learning run nor a finished comparison.
    """

    @cache  # most texts of a report stand in it many times
    def clean(text: str) -> str:
        return masked(redact(text)) if mask else redact(text)

    made = circumstances(run) | {"tokenprior": __version__, "python": platform.python_version()}
    made |= {"began": made["date"], "date": date_words(time.time())}
    if run.kind == "learn":
        found = report_of(store, run, plan=group_plan(run), gated=gated(store, run))
        return learned_page(cleaned(found | {"made": made}, clean))
    comparison = comparison_of(store, run.id)
    if comparison is None:
        raise NotFound(f"run {run.id} is neither a learning run nor a finished comparison: there is no report of it")
    return comparison_page(cleaned(comparison | {"made": made}, clean))

"""App: the pages put together, and served."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from tokenprior.errors import ConfigError, DataError, EditRefused, NotFound, TokenpriorError
from tokenprior.redact import redact
from tokenprior.serve.pages import calls, compare, control, edit, group, lesson, library, report, run, runs, start
from tokenprior.serve.pages.security import Forbidden, Keys, guard
from tokenprior.serve.pages.site import SITE, Site, render
from tokenprior.store import Store

PAGES = (runs, run, library, lesson, edit, group, compare, calls, report, start, control)

STATIC = Path(__file__).parent / "static"
MOST_BODY_BYTES = 1024 * 1024


def make_app(
    store: Store, *, keys: Keys | None = None, naming: str = "", folder: Path | None = None
) -> web.Application:
    """The pages of a store.

    Args:
        keys: drawn at random by default.
        naming: how a printed command names the store, as `Site` has it.
        folder: where the start form looks for data; the working directory by default.
    """
    site = Site(store=store, keys=keys or Keys.drawn(), naming=naming, folder=folder or Path.cwd())
    app = web.Application(middlewares=[guard(site.keys, _refused), _explained], client_max_size=MOST_BODY_BYTES)
    app[SITE] = site
    for page in PAGES:
        app.add_routes(page.routes())
    app.router.add_static("/static/", STATIC)
    return app


def _refused(request: web.Request, forbidden: Forbidden) -> web.StreamResponse:
    return web.Response(text=f"tokenprior: {forbidden}\n", status=forbidden.status)


@web.middleware
async def _explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What goes wrong is said in one line on a page, never in a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # a redirect, which an exception may not be returned as
            return web.Response(status=error.status, headers={"Location": error.headers["Location"]})
        known = {404: f"there is no page {request.path}", 405: f"{request.path} takes no {request.method}"}
        return render(request, "error.html", status=error.status, message=known.get(error.status, error.reason))
    except TokenpriorError as error:
        status = (
            404
            if isinstance(error, NotFound)
            else 409
            if isinstance(error, EditRefused)
            else 400
            if isinstance(error, ConfigError | DataError)
            else 500
        )
        return render(request, "error.html", status=status, message=redact(str(error)))
    except Exception:
        sys.stderr.write(redact(traceback.format_exc()))
        return render(request, "error.html", status=500, message="this page failed; the terminal says more")


async def serve(app: web.Application, port: int) -> tuple[web.AppRunner, int]:
    """Listen on loopback.

    Args:
        port: 0 for any that is free.

    Returns:
        What ends it by `cleanup`, and the port.

    Raises:
        ConfigError: the port is taken.
    """
    # A handler that is cancelled when its browser goes away would leave the file open that it was sending.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"port {port} cannot be had: {error.strerror}: choose another by --port") from error
    return runner, int(runner.addresses[0][1])

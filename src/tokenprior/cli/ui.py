"""tokenprior ui"""

from __future__ import annotations

from typing import Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing, naming


def ui(
    store: StoreOption = DEFAULT_STORE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 for any free port.")] = 8500,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Look at the runs of a store in a browser, while they run and afterwards. Ctrl-C ends it, not the runs."""
    import asyncio
    from contextlib import suppress

    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(store, port, show))


async def _serve(store: str, port: int, show: bool) -> None:
    import asyncio
    import webbrowser

    from tokenprior.serve.pages.app import make_app, serve
    from tokenprior.serve.pages.security import Keys
    from tokenprior.store import open_store

    keys = Keys.drawn()
    # In a folder where nothing was learned yet the first run can be started from here, so the usual store may be new.
    with open_store(store if store == DEFAULT_STORE else existing(store)) as opened:
        runner, port = await serve(make_app(opened, keys=keys, naming=naming(store)), port)
        try:
            address = f"http://127.0.0.1:{port}/?token={keys.token}"
            print(f"{address}\nOpen this address; it is for you alone. Ctrl-C ends it.", flush=True)
            if show:
                webbrowser.open(address)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

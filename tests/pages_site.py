"""Pages served as `tokenprior ui` serves them, for tests; and a comparison to show on them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import story
import world
from tokenprior.config import EvaluateConfig
from tokenprior.evaluate import compare
from tokenprior.library import Library
from tokenprior.models.scripted import ScriptedModel
from tokenprior.serve.pages.app import make_app, serve
from tokenprior.serve.pages.security import Keys
from tokenprior.store import Store, open_store

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Pages that are being served.

    Attributes:
        base: their address, without the token.
        entry: the address that is printed at the start.
    """

    store: Store
    base: str
    entry: str
    keys: Keys


def aside(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: where a browser is open, this one has a loop that runs already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def served(path: Path | str, folder: Path | None = None) -> Iterator[Served]:
    """Serve a store from a thread of its own; its files are in its own folder by default."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def inside(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    with open_store(path) as store:
        keys = Keys.drawn()

        async def begin() -> Any:
            return await serve(make_app(store, keys=keys, folder=folder or Path(path).parent), 0)

        runner, port = inside(begin())
        base = f"http://127.0.0.1:{port}"
        try:
            yield Served(store=store, base=base, entry=f"{base}/?token={keys.token}", keys=keys)
        finally:
            inside(runner.cleanup())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def compared(path: Path, name: str, library: Library) -> None:
    """A comparison of the library of a run with no prior, on tasks that it never saw."""
    with open_store(path) as store:
        record = store.open_run(f"{name}-5e5f", name=name, kind="compare", config={})
        await compare(
            list(world.tasks(80))[40:],
            {"no prior": Library(), "learned": library},
            agent=world.agent(ScriptedModel(story.policy)),
            verifier=world.SmallLetters(),
            record=record,
            config=EvaluateConfig(k=2, resamples=500),
        )
        record.close("done")

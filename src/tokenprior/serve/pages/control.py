"""Control: a learning run stopped, and gone on with.

A run is stopped as Ctrl-C stops it: by SIGINT to the process that holds its lock, which is known from the lock and
never looked for by a name. It is gone on with by the same command in a child process with a session of its own, which
outlives the pages; its output goes to a file beside the config. Only configs within the folder that the pages were
started in are run, for a store may come from somebody else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tokenprior.config import Config, load_config
from tokenprior.errors import ConfigError, StoreError
from tokenprior.redact import redact
from tokenprior.serve.pages.site import SITE, Site, ask, quoted, run_of
from tokenprior.store import RunRecord, look
from tokenprior.text import shorten

STOPS_WITHIN_S = 10.0
BEGINS_WITHIN_S = 30.0
LOOKS_EVERY_S = 0.1

# Pages that were started in the background have Ctrl-C ignored, and pass that on.
_HEARS = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
_RUNS = _HEARS + "runpy.run_module('tokenprior', run_name='__main__', alter_sys=True)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What can be done with a run from here.

    Attributes:
        stops: whether it can be stopped.
        goes_on: whether it can be gone on with.
        words: what else is to be said: why neither is possible, or that the run was killed.
    """

    stops: bool
    goes_on: bool
    words: str = ""


def routes() -> list[web.RouteDef]:
    return [web.post("/runs/{run}/stop", stop), web.post("/runs/{run}/go-on", go_on)]


async def stop(request: web.Request) -> web.Response:
    """Have a run stop; answers when it has, or after a while."""
    run = await run_of(request)
    await ask(_stop, request.app[SITE], run)
    raise web.HTTPSeeOther(f"/runs/{quoted(run.id)}")


def _stop(site: Site, run: RunRecord) -> None:
    holder = site.store.holder(run.id)
    if holder is None or holder == os.getpid():
        raise ConfigError(f"run {run.id}: no process of this machine is known to work on it: {_by_hand(run)}")
    try:
        os.kill(holder, signal.SIGINT)
    except OSError as error:
        raise StoreError(f"run {run.id}: process {holder} cannot be stopped: {error.strerror}") from error
    deadline = time.monotonic() + STOPS_WITHIN_S
    while time.monotonic() < deadline and site.store.holder(run.id) == holder:
        time.sleep(LOOKS_EVERY_S)


async def go_on(request: web.Request) -> web.Response:
    """Go on with a run by the command that began it."""
    run, site = await run_of(request), request.app[SITE]
    began = await ask(_go_on, site, run)
    raise web.HTTPSeeOther(f"/runs/{quoted(began)}")


def _go_on(site: Site, run: RunRecord) -> str:
    config, arguments = _command(site, run)
    assert config.source is not None, "configs that are run have files"
    if len(run.start) and not (start := _start_file(site, run, config.source.file)).exists():
        start.write_text(run.start.dumps(), encoding="utf-8")
    return begin(site, config, arguments)


def control_of(site: Site, run: RunRecord) -> Control:
    """What can be done with a run."""
    if run.kind != "learn":
        words = "" if run.state == "done" else f"`tokenprior {run.kind}` with the same arguments goes on with it."
        return Control(stops=run.state == "running" and _held(site, run), goes_on=False, words=words)
    if run.state == "running" and _held(site, run):
        return Control(stops=True, goes_on=False)
    if run.state == "running" and site.store.held_elsewhere(run.id):
        return Control(stops=False, goes_on=False, words=f"Another machine works on it: {_by_hand(run)}")
    if run.state == "done":
        return Control(stops=False, goes_on=False)
    killed = "Its process is gone without a word: it was killed, or works on another machine. "
    words = killed if run.state == "running" else ""
    try:
        _command(site, run)
    except (ConfigError, StoreError) as error:
        return Control(stops=False, goes_on=False, words=f"{words}{error}")
    return Control(stops=False, goes_on=True, words=words.strip())


def _held(site: Site, run: RunRecord) -> bool:
    return site.store.holder(run.id) not in (None, os.getpid())


def _by_hand(run: RunRecord) -> str:
    return "press Ctrl-C where it runs" if run.state == "running" else f"it is {run.state}"


def within(folder: Path, path: str | Path) -> Path:
    """A path of the folder, links followed.

    Raises:
        ConfigError: it leads out of it.
    """
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise ConfigError(f"{path}: is not in the folder that the pages were started in; start them where it is")
    return found


def _command(site: Site, run: RunRecord) -> tuple[Config, Sequence[str]]:
    """The config of a run, and the arguments of `tokenprior learn` that go on with it.

    Raises:
        ConfigError: the config is not known, not there or no longer that of the run; says how to go on.
    """
    source: Any = run.config.get("source") or {}
    how = "the command that began it goes on with it"
    if not isinstance(source, dict) or not source.get("file"):
        raise ConfigError(f"run {run.id} was not started from a config file: {how}")
    file = within(site.folder, source["file"])
    if not file.is_file():
        raise ConfigError(f"{file.name}: the config of run {run.id} is no longer there: {how}")
    changes = dict(source.get("changes") or {})
    arguments = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    if len(run.start):
        arguments += ["--start", str(_start_file(site, run, file))]
    return load_config(file, changes=changes), arguments


def _start_file(site: Site, run: RunRecord, config: Path) -> Path:
    """Where the library that a run began with stands for the command that goes on with it."""
    return within(site.folder, config.with_name(f"{run.name}.start.{run.start.version}.json"))


def begin(site: Site, config: Config, arguments: Sequence[str] = ()) -> str:
    """Run `tokenprior learn` in a process of its own.

    Returns:
        The id of the run, as soon as it is there.

    Raises:
        ConfigError: its runs are kept in another store, or it ended before there was a run; gives its last words.
    """
    assert config.source is not None, "configs that are run have files"
    file = config.source.file
    if not site.store.is_at(config.store):
        raise ConfigError(
            f"{file.name}: keeps its runs in another store than these pages show: `tokenprior ui --store STORE` has it"
        )
    log = within(site.folder, file.with_name(f"{file.stem}.learn.log"))
    began = time.time()
    with log.open("ab") as output:
        size = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-c", _RUNS, "learn", file.name, *arguments],
            cwd=file.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Somebody has to hear of its end, whenever that is; the pages may end before.
    threading.Thread(target=child.wait, daemon=True).start()
    deadline = time.monotonic() + BEGINS_WITHIN_S
    while time.monotonic() < deadline:
        ended = child.poll() is not None
        lines = look.runs(site.store, since=began, limit=50)
        for run in (line.run for line in lines):
            if run.kind == "learn" and (run.config.get("source") or {}).get("file") == str(file):
                return run.id
        if ended:
            raise ConfigError(f"{file.name}: {_last_words(log, size) or 'it ended before it began'}")
        time.sleep(LOOKS_EVERY_S)
    raise StoreError(f"{file.name}: has not begun after {BEGINS_WITHIN_S:.0f} s; {log.name} says what it is at")


def _last_words(log: Path, start: int) -> str:
    """What a command said last, of what it wrote from a place on."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 4_000))
        lines = file.read().decode("utf-8", "replace").split("\n")
    said = [line for line in lines if line.strip()]
    return redact(shorten(said[-1].removeprefix("tokenprior: "), 500)) if said else ""

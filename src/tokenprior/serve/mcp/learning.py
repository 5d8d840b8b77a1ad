"""A learning step that a coding agent asks for, over the attempts that it reported.

Order of events: the tasks with attempts that are not behind the library yet are read from the store, as far as they
teach something; `Session.learn` takes one run over them, from the library that is served now; what ships takes its
place. So a step is a run as any other: within its budget, in its ledger, behind its gate.

Its id is made of the library and the attempts, and attempts count as learned from once they are behind the library
that is served. So the same request goes on with the same run after a kill, even one between the end of the run and its
library taking its place; and what the gate did not let through is tried again together with what comes later.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprior.cli.learn import shipping
from tokenprior.cli.show import is_file, run_and_place
from tokenprior.config import Config, LearnConfig, LogSettings
from tokenprior.errors import ConfigError, DataError
from tokenprior.exports import import_library
from tokenprior.learn import LearnResult, require_gate_tasks
from tokenprior.library import Library
from tokenprior.logs import LoggedTask
from tokenprior.progress import OnProgress
from tokenprior.serve.libraries import ServedLibrary
from tokenprior.serve.mcp.attempts import needed, teaches, unlearned
from tokenprior.session import read_tasks, session
from tokenprior.store import Store
from tokenprior.task import Split

MOST_TOLD = 5  # tasks that still lack something

_ONE_TO_TRY_ON = "a task that candidates are tried on, so nothing is learned from it."
_UNPROVEN = "Not proven: no gate is configured, so whatever was learned is served. Read it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of one operation on the library: `done` or `refused`, and why."""

    operation: str
    outcome: str
    reason: str
    lesson: str = ""
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a learning step brought.

    Attributes:
        run: its id in the store; empty if there was nothing to learn from.
        before, version: of the library that was served, and of the one that is served now.
        operations: done and refused, in their order.
        dropped: what was refused before it became an operation: how often for which reason.
        proof: whether anything was proven, in plain words.
        said: what happened, and what to do next.
    """

    library: str
    run: str = ""
    before: str
    version: str
    tasks: int = 0
    attempts: int = 0
    operations: tuple[Told, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    proof: str = ""
    said: str


def require_learning(config: Config) -> None:
    """Raises ConfigError if a config cannot learn from recorded attempts."""
    learn, verifier = config.learn.resolved(), config.verifier
    require_gate_tasks(_own_tasks(config).gate, learn)
    if learn.gate != "none" and verifier["kind"] == "recorded" and not verifier.get("otherwise"):
        raise ConfigError(
            "verifier recorded: judges no attempts at gate tasks: name the verifier that does, or set learn.gate: none"
        )


async def learn_from_attempts(
    served: ServedLibrary, *, config: Config, store: Store, on_progress: OnProgress | None = None
) -> tuple[Learned, ServedLibrary]:
    """Learn from the attempts that are not behind a library yet, or go on with it.

    Args:
        config: whose learning model, gate, budget and store to use.
        store: that of the config.

    Returns:
        What it brought, and what is to be served from now on.

    Raises:
        TokenpriorError: as `Session.learn` does; or the new library cannot take the place of the one that is served.
    """
    _require_place(served)
    before, learn = served.library, config.learn.resolved()
    waiting = await asyncio.to_thread(unlearned, store, served.name, before)
    tried_on = _tried_on(config)
    practice = [one for one in waiting if one.task.text_key not in tried_on and teaches(one, learn)]
    if not practice:
        return _nothing(served, waiting, learn, tried_on), served
    async with session(_practising(config, served, store), logged=practice, on_progress=on_progress) as opened:
        run, result = opened.run_of(before), await opened.learn(start=before)
    after = result.library
    if after.version != before.version:
        served = await asyncio.to_thread(_put_in_place, served, before, after, run, store)
    learned = Learned(
        library=served.name,
        run=run,
        before=before.version,
        version=after.version,
        tasks=len(practice),
        attempts=sum(len(one.attempts) for one in practice),
        operations=tuple(_told(row) for row in await asyncio.to_thread(store.rows, "operations", run)),
        dropped=dict(sum((Counter(step["drops"]) for step in result.steps), Counter[str]())),
        proof=" ".join(shipping(result)) if learn.gate != "none" else _UNPROVEN,
        said=_said(result, before),
    )
    return learned, served


def _own_tasks(config: Config) -> Split:
    """The tasks of a config, apart from its logs."""
    return read_tasks(config.model_copy(update={"logs": None}))


def _tried_on(config: Config) -> set[str]:
    """The texts of the tasks that candidates are tried on: what is learned from them would prove itself."""
    split = _own_tasks(config)
    return {task.text_key for task in (*split.gate, *split.held_out)}


def _practising(config: Config, served: ServedLibrary, store: Store) -> Config:
    """The config of a run over recorded attempts: they have their rewards, those at the gate have its verifier."""
    verifier = config.verifier
    if verifier["kind"] != "recorded":
        verifier = {"kind": "recorded", "otherwise": verifier}
    logs = LogSettings(path=Path(config.store), form="served", fields={"library": served.name})
    name = served.name if is_file(served.source) else store.find_run(run_and_place(served.source)[0]).name
    return config.model_copy(update={"name": name, "logs": logs, "verifier": verifier})


def _require_place(served: ServedLibrary) -> None:
    """Raises ConfigError if a library is a file in a form that holds no provenance, so that no version of ours fits."""
    if is_file(served.source) and '"experiences"' not in Path(served.source).read_text(encoding="utf-8-sig"):
        raise ConfigError(
            f"{served.source}: is not in tokenprior's JSON, which a learned library is written in: "
            f"tokenprior import {served.source} --to FILE, and serve that"
        )


def _put_in_place(served: ServedLibrary, before: Library, after: Library, run: str, store: Store) -> ServedLibrary:
    """Serve a new version: the run itself, or the file with the new version in it.

    Raises:
        DataError: the file was changed meanwhile, or cannot be written.
    """
    if not is_file(served.source):
        return ServedLibrary(served.name, run, store)
    path = Path(served.source).resolve()  # a link stays one
    take = f"the new version: tokenprior export {run} --form json --to FILE"
    if import_library(path) != before:
        raise DataError(f"{path}: was changed while learning went on, so it is left alone; {take}")
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            file.write(after.dumps())
        shutil.copymode(path, file.name)
        os.replace(file.name, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; {take}") from error
    return served


def _told(row: Mapping[str, Any]) -> Told:
    operation = row["operation"]
    words = [operation.get("name", ""), operation.get("text", "")]
    ids = [operation["id"]] if "id" in operation else operation.get("ids", [])
    return Told(
        operation=operation["op"],
        outcome=row["outcome"],
        reason=row["reason"],
        lesson=": ".join(filter(None, words)),
        ids=tuple(ids),
    )


def _said(result: LearnResult, before: Library) -> str:
    if result.stopped:
        return f"Stopped: {result.stopped}. What was done is kept: raise the budget, and the same call goes on."
    changed = sum(len(part) for part in before.changes(result.library))
    if changed:
        lessons = "1 lesson" if changed == 1 else f"{changed} lessons"
        return f"{lessons} came, went or changed. The new version is served from now on: call read_lessons again."
    return "The library stays as it is. The attempts are kept, and count again together with what is recorded next."


def _nothing(
    served: ServedLibrary, waiting: Sequence[LoggedTask], learn: LearnConfig, tried_on: Collection[str]
) -> Learned:
    lines = [
        f"{one.task.id}: {_ONE_TO_TRY_ON if one.task.text_key in tried_on else needed(one, learn)}"
        for one in waiting[:MOST_TOLD]
    ]
    more = [f"... and {len(waiting) - MOST_TOLD} more tasks."] if len(waiting) > MOST_TOLD else []
    since = "Nothing was recorded since the last step: call record_attempt first."
    return Learned(
        library=served.name,
        before=served.version,
        version=served.version,
        proof="Nothing was tried.",
        said=" ".join(["Nothing to learn from yet.", *lines, *more]) if waiting else since,
    )

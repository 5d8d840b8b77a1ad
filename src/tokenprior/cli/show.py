"""tokenprior runs, tokenprior show, tokenprior diff"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenprior.experience import Effect
    from tokenprior.library import Library
    from tokenprior.store import Store

StoreOption = Annotated[str, typer.Option("--store", help="The store: a file or a SQLAlchemy address.")]
DEFAULT_STORE = "tokenprior.db"


def existing(store: str) -> str:
    """A store that is there: looking must not make an empty one."""
    from tokenprior.errors import NotFound

    if "://" not in store and not Path(store).is_file():
        raise NotFound(f"{store}: no such store; name yours with --store FILE")
    return store


def naming(store: str) -> str:
    """How a command that we print names the store: not at all where it is the usual one."""
    import shlex

    from tokenprior.redact import redact

    return "" if store == DEFAULT_STORE else f" --store {shlex.quote(redact(store))}"


def runs(store: StoreOption = DEFAULT_STORE) -> None:
    """List the runs of a store, the newest first."""
    from datetime import datetime

    from tokenprior.store import open_store

    with open_store(existing(store)) as opened:
        for run in opened.runs():
            began = datetime.fromtimestamp(run.created_at).strftime("%Y-%m-%d %H:%M")
            print(f"{run.id:<40} {run.kind:<8} {run.state:<8} {began}  {run.detail[:100]}".rstrip())


def show(
    run: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its name (the newest).")],
    what: Annotated[
        str, typer.Argument(help="library, operations, groups, or TASK#INDEX for one rollout.")
    ] = "library",
    step: Annotated[
        int | None, typer.Option(help="Only this step, from 0; for the library what is used by default, else all.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show what a run learned and why: its library, operations with reasons, groups, or one rollout."""
    from tokenprior.errors import NotFound
    from tokenprior.store import open_store

    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        if what == "library":
            _library(opened, record.id, step, store)
            return
        wanted = {"operations": _operations, "groups": _groups}.get(what)
        lines = wanted(opened, record.id, step) if wanted else _rollout(opened, record.id, what, step)
        if not lines:
            raise NotFound(f"run {record.id} has no {what!r}: choose library, operations, groups or TASK#INDEX")
        print("\n".join(lines))


def _library(store: Store, run: str, step: int | None, where: str) -> None:
    import sys

    from tokenprior.store.life import effects_of

    library = store.library(run, step)
    ends = store.rows("steps", run)
    effects = effects_of(ends)
    learning = ends[-1]["library_version"] if ends else library.version
    for experience in library:
        origin = experience.provenance
        print(f"[{experience.id}] {experience.line}")
        print(f"      {effect_words(effects.get((experience.id, experience.line)) or experience.effect)}")
        print(f"      step {origin.step}, {origin.operation}: {origin.reason or 'no reason given'}")
        print(f"      groups: {', '.join(origin.groups) or 'none'}")
        if origin.origins:
            print(f"      joined from: {', '.join(map(str, origin.origins))}")
    if not len(library):
        print("the library is empty")
    if step is None and learning != library.version:
        pins = store.rows("pins", run)
        why = f"pinned: {pins[-1]['reason'] or 'no reason given'}" if pins and pins[-1]["version"] else "what ships"
        print(
            f"note: library {library.version} is used ({why}); learning goes on from {learning}: "
            f"tokenprior show {run} library --step {ends[-1]['step']}{naming(where)}",
            file=sys.stderr,
        )


def effect_words(effect: Effect | None) -> str:
    """What a lesson was measured to do."""
    return f"effect {effect}" if effect else "effect not measured"


def _at(rows: list[dict[str, Any]], step: int | None) -> list[dict[str, Any]]:
    return rows if step is None else [row for row in rows if row["step"] == step]


def _operations(store: Any, run: str, step: int | None) -> list[str]:
    from tokenprior.text import shorten

    lines = []
    for row in _at(store.rows("operations", run), step):
        operation = row["operation"]
        target = operation.get("id") or "+".join(operation.get("ids", []))
        words = shorten(operation.get("text", ""), 200)
        lines.append(
            f"step {row['step']}  {row['outcome']:<7} {operation['op']:<6} {target} {words}  ({row['reason']})"
        )
    return lines


def _groups(store: Any, run: str, step: int | None) -> list[str]:
    advantages = {(row["step"], row["task"]): row["advantage"] for row in store.rows("advantages", run)}
    rewards: dict[tuple[int, str], list[str]] = {}
    for row in _at([row for row in store.rows("rollouts", run) if row["phase"] == "rollout"], step):
        value = (row["reward"] or {}).get("value")
        failed = row["rollout"]["failure"]
        mark = "failed" if failed else "unscored" if value is None else f"{value:g}"
        rewards.setdefault((row["step"], row["task"]), []).append(mark)
    lines = []
    for (at, task), marks in sorted(rewards.items()):
        lines.append(f"step {at}  {task}  rewards {' '.join(marks)}")
        advantage = advantages.get((at, task))
        if advantage:
            lines += [f"    lesson: {name + ': ' if name else ''}{text}" for name, text in advantage["lessons"]]
            if len(advantage["groups"]) > 1:
                lines.append(f"    (contrasted together with {', '.join(advantage['groups'][1:])})")
            lines += [f"    dropped: {reason}: {what}" for what, reason in advantage["drops"]]
    return lines


def _message(value: Any) -> list[str]:
    from tokenprior.rollout import Message

    message = Message.from_json(value)
    answers = f" (answers {message.answers})" if message.answers else ""
    lines = [f"-- {message.role}{answers}", *([message.content] if message.content else [])]
    lines += [f"[image {image[:80]}]" for image in message.images]
    return lines + [f"calls {call.name} ({call.id}): {call.arguments}" for call in message.tool_calls]


def _rollout(store: Any, run: str, what: str, step: int | None) -> list[str]:
    task, _, index = what.rpartition("#")
    lines: list[str] = []
    for row in _at([row for row in store.rows("rollouts", run) if row["task"] == task], step):
        if str(row["attempt"]) != index:
            continue
        lines.append(f"== {row['phase']} step {row['step']}, {task}#{index}")
        if source := row["rollout"]["metadata"].get("source"):
            lines.append(f"-- read from {source}")
        for message in row["rollout"]["messages"]:
            lines += _message(message)
        if row["rollout"]["failure"]:
            lines.append(f"-- failed: {': '.join(row['rollout']['failure'])}")
        reward = row["reward"] or {}
        doubts = sum("doubt" in call for call in row["rollout"]["metadata"].get("tools", ()))
        if doubts:
            calls = "1 call of a tool was" if doubts == 1 else f"{doubts} calls of tools were"
            lines.append(f"-- {calls} cut off by a crash and not made again: it may have taken effect")
        lines.append(f"-- reward {reward.get('value')}  {reward.get('reason', '')} {reward.get('feedback', '')}")
    return lines


def diff(
    before: Annotated[
        str, typer.Argument(help="A run, a step of it (RUN:0), a version of it (RUN:1a2b), or a library file.")
    ],
    after: Annotated[str, typer.Argument(help="The same.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show what changed between two libraries, entry by entry."""
    first, second = library_of(before, store), library_of(after, store)
    if first.version == second.version:
        print("the same library")
    for identity in dict.fromkeys([*(e.id for e in first), *(e.id for e in second)]):
        old = first[identity].line if identity in first else None
        new = second[identity].line if identity in second else None
        if old != new:
            print(f"[{identity}]")
            if old is not None:
                print(f"  - {old}")
            if new is not None:
                print(f"  + {new}")


def library_of(what: str, store: str) -> Library:
    """The library that a file holds, or a run or one version of it in a store.

    Args:
        what: a file, `RUN`, `RUN:STEP` or `RUN:VERSION`.
    """
    from tokenprior.exports import import_library
    from tokenprior.store import open_store

    if is_file(what):
        return import_library(what)
    run, at = run_and_place(what)
    with open_store(existing(store)) as opened:
        return opened.library(opened.find_run(run).id, at)


def is_file(what: str) -> bool:
    """Whether a library's name means a file: what ends like one is one, so that a misspelt file is not answered with a
    list of runs."""
    return Path(what).is_file() or Path(what).suffix in (".json", ".yaml", ".yml")


def run_and_place(what: str) -> tuple[str, int | str | None]:
    """The run, and the step or version in `RUN:STEP` or `RUN:VERSION`, if there is one.

    Raises:
        ConfigError: what stands behind the colon is neither.
    """
    from tokenprior.errors import ConfigError

    run, colon, text = what.partition(":")
    at = place_of(text) if colon else None
    if colon and at is None:
        raise ConfigError(
            f"{what}: expected RUN:STEP with a step from 0, RUN:VERSION with the beginning of a version, or a library "
            "file"
        )
    return run, at


def place_of(text: str) -> int | str | None:
    """A step (digits) or the beginning of a version (hexadecimal); `None` if a text is neither.

    A version may be digits throughout: twelve of them are one, for no run has so many steps.
    """
    import re

    if re.fullmatch(r"[0-9]{1,11}", text):
        return int(text)
    return text.lower() if re.fullmatch(r"[0-9a-fA-F]{1,12}", text) else None

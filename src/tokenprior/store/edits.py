"""Edits: what a person does to the library of a run: reword, add, merge, delete, each with an author and a reason.

An edit is made on what is used, and makes a version that is used from then on, as if it had been pinned: what learning
goes on from stays as it is, and `pin` or `rollback` go back. Operations are applied as those of the learning model are
(`Library.apply`), all of them or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.errors import EditRefused
from tokenprior.experience import one_line
from tokenprior.library import Applied, Bounds, Library
from tokenprior.operation import Add, Delete, Keep, Merge, Modify, Operation, to_json
from tokenprior.private import PrivatePolicy, masked, refusal
from tokenprior.redact import redact
from tokenprior.store import codec, schema
from tokenprior.store.open import alone_with, library_in, pin_in

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_AUTHOR = 80  # characters
MOST_REASON = 500
# Lessons added by hand are numbered from here on, for learning does not hear of them and goes on with its own numbers:
# an id names one lesson for life.
BY_HAND = 10_000


def edit(
    store: Store, run: str, operations: Sequence[Operation], *, author: str, reason: str, made_from: str | None = None
) -> Library:
    """Change what a run uses, by hand.

    Args:
        run: its id.
        operations: all of them are carried out, or none.
        author, reason: for whoever reads the history; neither may be empty.
        made_from: the version that the author looked at; `None` takes what is used, whatever it is.

    Returns:
        The library that is used from now on.

    Raises:
        EditRefused: an operation does not fit, there is no author or reason, or the library has changed since. Nothing
            was changed.
    """
    author, reason = one_line(redact(author))[:MOST_AUTHOR], one_line(redact(reason))[:MOST_REASON]
    if not author or not reason:
        raise EditRefused(f"an edit needs {'a reason' if author else 'an author'}, for whoever reads the history")
    learn: Mapping[str, Any] = store.find_run(run).config.get("learn") or {}
    policy: PrivatePolicy = learn.get("private") or "refuse"
    meant = [_tidied(operation, reason, mask=policy == "mask") for operation in operations]
    for operation in meant:
        if not isinstance(operation, Delete | Keep) and (why := refusal(f"{operation.name}: {operation.text}", policy)):
            raise EditRefused(f"the lesson {why}; nothing was changed")

    def write(connection: sa.Connection) -> Library:
        alone_with(connection, run)
        used = library_in(connection, run)
        assert used is not None, "every run uses a library, be it empty"
        if made_from is not None and used.version != made_from:
            raise EditRefused(
                f"the library has changed since: this was made from {made_from}, and {used.version} is used now; look "
                "at it again"
            )
        step, number = _stands(connection, run)
        applied = replace(used, next_number=max(used.next_number, number)).apply(
            meant, bounds=Bounds(**(learn.get("library") or {})), run=f"edit:{author}", step=max(step, 0)
        )
        _require_all(meant, applied)
        _keep(connection, run, step, used, applied, author, reason)
        return applied.library

    return store.writer.run_now(write)


def _stands(connection: sa.Connection, run: str) -> tuple[int, int]:
    """The last finished step of a run, -1 for none, and the number that a lesson added by hand has at least."""
    steps, edits = schema.steps.c, schema.edits.c
    last = sa.select(steps.step, steps.library).where(steps.run == run).order_by(steps.step.desc()).limit(1)
    by_hand = sa.select(edits.edited).where(edits.run == run).order_by(edits.sequence.desc()).limit(1)
    row, made = connection.execute(last).first(), connection.execute(by_hand).scalar()
    learned = json.loads(row.library)["next_number"] if row else 0
    number = (learned // BY_HAND + 1) * BY_HAND
    return (row.step if row else -1), max(number, json.loads(made)["next_number"] if made else 0)


def _tidied(operation: Operation, reason: str, *, mask: bool) -> Operation:
    if isinstance(operation, Delete | Keep):
        return replace(operation, reason=reason)
    name, text = one_line(operation.name), one_line(operation.text)
    return replace(operation, name=masked(name) if mask else name, text=masked(text) if mask else text, reason=reason)


def _require_all(meant: Sequence[Operation], applied: Applied) -> None:
    """A person is told of everything that would have gone another way than they meant."""
    problems = [f"{_named(refused.operation)}: {refused.reason}" for refused in applied.refused]
    for wanted, done in zip(meant, applied.done, strict=False):
        if isinstance(wanted, Add) and isinstance(done, Keep):
            problems.append(f"{_named(wanted)}: {done.id} says the same")
    for evicted in applied.done[len(meant) :]:
        problems.append(f"{_named(evicted)} would have to go: {evicted.reason}")
    if problems:
        raise EditRefused(f"{'; '.join(problems)}; nothing was changed")


def _named(operation: Operation) -> str:
    match operation:
        case Add():
            return "the new lesson"
        case Merge(ids=ids):
            return f"merge of {', '.join(ids)}"
        case Modify(id=identity) | Delete(id=identity) | Keep(id=identity):
            return identity


def _keep(
    connection: sa.Connection, run: str, step: int, used: Library, applied: Applied, author: str, reason: str
) -> None:
    new = iter([experience.id for experience in applied.library if experience.id not in used])
    rows: list[dict[str, Any]] = []
    for operation in applied.done:
        row = to_json(operation)
        ids = [next(new)] if isinstance(operation, Add) else row.get("ids") or [row["id"]]
        rows.append(row | {"ids": ids, "before": {i: used[i].line for i in ids if i in used}})
    count = sa.select(sa.func.count()).where(schema.edits.c.run == run)
    connection.execute(
        schema.edits.insert().values(
            run=run,
            sequence=connection.execute(count).scalar_one(),
            step=step,
            author=codec.plain(author),
            reason=codec.plain(reason),
            operations=codec.dumps(rows),
            before_version=used.version,
            edited_version=applied.library.version,
            edited=codec.dumps(applied.library.to_json()),
            edited_at=time.time(),
        )
    )
    pin_in(connection, run, applied.library.version, f"edited by {author}: {reason}")

"""Calls: the ledger as the pages ask for it. Lists read no prompts; a search reads those of so many calls at most."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.errors import NotFound
from tokenprior.store import schema

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_SEARCHED = 2_000  # calls whose texts one page looks through,
MOST_OF_A_TEXT = 200_000  # and so many characters of each

Row = dict[str, Any]

_LISTED = (
    "id",
    "key",
    "attempt",
    "model",
    "state",
    "error",
    "phase",
    "step",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost_usd",
    "latency_s",
    "sent_at",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which calls of a run; empty is all.

    Attributes:
        task: the id of the task that they were for.
        text: that stands in the prompt or the reply, in any letter case.
    """

    phase: str = ""
    state: str = ""
    model: str = ""
    task: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Some calls, the newest first.

    Attributes:
        older: the id of the call behind which the list goes on; `None` at its end.
        searched: how many calls a search looked through.
    """

    rows: tuple[Row, ...]
    older: int | None
    searched: int = 0


def calls(store: Store, run: str, wanted: Wanted, *, before: int | None = None, limit: int) -> Calls:
    """Some calls of a run.

    Args:
        before: only those older than the call of this id.
    """
    table = schema.calls
    where = [table.c.run == run]
    where += [table.c[name] == value for name in ("phase", "state", "model") if (value := getattr(wanted, name))]
    if before is not None:
        where.append(table.c.id < before)
    if wanted.task:
        where.append(table.c.key.contains(f"/{wanted.task}/", autoescape=True))
    listed = [table.c[name] for name in _LISTED]

    def read(connection: sa.Connection) -> Calls:
        # Left to itself SQLite walks the whole run in the order of ids, and for a state that is rare that is long.
        order = table.c.id + 0 if wanted.phase or wanted.state else table.c.id
        newest = sa.select(table.c.id).where(*where).order_by(order.desc())
        if not wanted.text:
            ids = list(connection.execute(newest.limit(limit + 1)).scalars())
            older = ids[limit - 1] if len(ids) > limit else None
            return Calls(rows=_rows(connection, ids[:limit]), older=older)
        looked = list(connection.execute(newest.limit(MOST_SEARCHED)).scalars())
        # As it stands in JSON, where what is not ASCII is escaped.
        piece = json.dumps(wanted.text)[1:-1].lower()
        texts = [sa.func.lower(sa.func.substr(table.c[name], 1, MOST_OF_A_TEXT)) for name in ("request", "reply")]
        holds = [one.contains(piece, autoescape=True) for one in texts]
        found = sa.select(table.c.id).where(table.c.id.in_(looked), sa.or_(*holds)).order_by(table.c.id.desc())
        ids = list(connection.execute(found.limit(limit + 1)).scalars())
        whole = len(looked) < MOST_SEARCHED  # the search came to the end of the list
        older = ids[limit - 1] if len(ids) > limit else None if whole else looked[-1]
        searched = sum(one >= older for one in looked) if older is not None else len(looked)
        return Calls(rows=_rows(connection, ids[:limit]), older=older, searched=searched)

    def _rows(connection: sa.Connection, ids: list[int]) -> tuple[Row, ...]:
        query = sa.select(*listed).where(table.c.id.in_(ids)).order_by(table.c.id.desc())
        return tuple(dict(row._mapping) for row in connection.execute(query))

    return store.read(read)


def summed(store: Store, run: str) -> list[Row]:
    """Calls and what they took, by phase and state."""
    columns = schema.calls.c
    sums = [sa.func.sum(columns[name]).label(name) for name in ("input_tokens", "output_tokens", "cached_tokens")]
    query = (
        sa.select(
            columns.phase,
            columns.state,
            sa.func.count().label("calls"),
            *sums,
            sa.func.sum(columns.cost_usd).label("cost_usd"),
            sa.func.count(columns.cost_usd).label("priced"),
        )
        .where(columns.run == run)
        .group_by(columns.phase, columns.state)
        .order_by(columns.phase, columns.state)
    )

    def read(connection: sa.Connection) -> list[Row]:
        rows = [dict(row._mapping) for row in connection.execute(query)]
        return [row | {"cost_usd": row["cost_usd"] if row["priced"] == row["calls"] else None} for row in rows]

    return store.read(read)


def call_of(store: Store, run: str, call: int) -> Row:
    """One call with its `request` and `reply` as JSON values, and the ids of all its `tries`.

    Raises:
        NotFound: the run has no such call.
    """
    table = schema.calls

    def read(connection: sa.Connection) -> Row | None:
        row = connection.execute(sa.select(table).where(table.c.id == call, table.c.run == run)).first()
        if row is None:
            return None
        same = (table.c.run == run, table.c.key == row.key, table.c.request_hash == row.request_hash)
        tries = sa.select(table.c.id, table.c.state, table.c.error).where(*same).order_by(table.c.attempt)
        found = dict(row._mapping) | {"tries": [dict(one._mapping) for one in connection.execute(tries.limit(100))]}
        return found | {name: json.loads(found[name]) if found[name] else None for name in ("request", "reply")}

    found = store.read(read)
    if found is None:
        raise NotFound(f"run {run} has no call {call}")
    return found

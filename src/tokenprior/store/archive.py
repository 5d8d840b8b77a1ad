"""Archive: what takes how much room in a store, whole runs moved to another store, and the space given back.

A run is moved in this order, and may be killed anywhere in it; the same command goes on:

1. Other processes are kept from the run, in both stores.
2. Its rows are copied, so many at a time, that of `runs` last: a copy without it is none, and is begun anew.
3. Every row is read back from both stores and compared.
4. The run is marked as moving, and its rows are taken out here, so many at a time, that of `runs` last.

The other store is a file or a server, whichever this one is: so a store moves to a server, and back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tokenprior.errors import ConfigError, StoreError
from tokenprior.store import schema
from tokenprior.store.codec import plain
from tokenprior.store.open import MOVING, Store
from tokenprior.store.record import RunRecord
from tokenprior.store.writer import store_error

AT_A_TIME = 500  # rows

# Every table whose rows belong to a run; what stands in `holders` is of this very moment.
OF_RUNS = tuple(table for table in schema.metadata.sorted_tables if "run" in table.c and table is not schema.holders)

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSize:
    """What a run takes.

    Attributes:
        rows: by table.
        size_bytes: of what it wrote; as it lies on the disk where the store is on a server. Indexes come on top.
    """

    run: RunRecord
    rows: dict[str, int]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSize:
    """What a store takes.

    Attributes:
        size_bytes: on the disk, indexes and all.
        free_bytes: of these, that a file keeps for what comes; 0 on a server, which does not say.
        runs: the largest first.
        served: requests that were recorded, of no run.
        served_bytes: of what they wrote.
    """

    size_bytes: int
    free_bytes: int
    runs: tuple[RunSize, ...]
    served: int
    served_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What the runs that stay could find again in one that goes.

    Attributes:
        run: that goes.
        others: of its name, that stay.
        calls: finished ones, that are paid for.
    """

    run: str
    others: tuple[str, ...]
    calls: int
    rollouts: int


def size_of(store: Store) -> StoreSize:
    """What takes how much room. Reads everything that is in a file once."""

    def read(connection: sa.Connection) -> StoreSize:
        rows: dict[str, dict[str, int]] = {}
        sizes: dict[str, int] = {}
        for table in (schema.runs, *OF_RUNS):
            run = table.c.id if table is schema.runs else table.c.run
            for name, count, size in connection.execute(sa.select(run, *_sums(connection, table)).group_by(run)):
                rows.setdefault(name, {})[table.name] = count
                sizes[name] = sizes.get(name, 0) + int(size)
        served, served_bytes = connection.execute(sa.select(*_sums(connection, schema.served))).one()
        known = [RunRecord.of(row._mapping) for row in connection.execute(sa.select(schema.runs))]
        runs = [RunSize(run=run, rows=rows[run.id], size_bytes=sizes[run.id]) for run in known]
        size, free = _on_disk(connection)
        return StoreSize(
            size_bytes=size,
            free_bytes=free,
            runs=tuple(sorted(runs, key=lambda one: (-one.size_bytes, one.run.id))),
            served=served,
            served_bytes=int(served_bytes or 0),
        )

    return store.read(read)


def _sums(connection: sa.Connection, table: sa.Table) -> tuple[sa.ColumnElement[Any], ...]:
    """How many rows, and the bytes in them."""
    if connection.dialect.name == "sqlite":
        # The length of a text is in characters, of a blob in bytes; a number takes 8 at most.
        sizes = [
            sa.func.length(sa.cast(column, sa.LargeBinary)) if isinstance(column.type, sa.String) else sa.literal(8)
            for column in table.c
        ]
    else:
        sizes = [sa.func.pg_column_size(column) for column in table.c]
    total: sa.ColumnElement[Any] = sa.literal(0)
    for size in sizes:
        total = total + sa.func.coalesce(size, 0)
    return sa.func.count(), sa.func.sum(total)


def _on_disk(connection: sa.Connection) -> tuple[int, int]:
    if connection.dialect.name == "sqlite":
        page, pages, free = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_size", "page_count", "freelist_count")
        )
        return page * pages, page * free
    sizes = [sa.func.pg_total_relation_size(sa.literal(name)) for name in schema.metadata.tables]
    return sum(int(size) for size in connection.execute(sa.select(*sizes)).one()), 0


def reused(store: Store, runs: Sequence[str]) -> list[Reuse]:
    """What runs that stay could find again in those that go, and soon no longer can."""
    every = store.runs()
    names = {record.id: record.name for record in every}
    made: list[Reuse] = []
    for run in runs:
        others = tuple(one.id for one in every if one.name == names[run] and one.id not in runs)
        if others:
            calls, rollouts = schema.calls.c, schema.rollouts.c
            paid = sa.select(sa.func.count()).where(calls.run == run, calls.state == "done")
            kept = sa.select(sa.func.count()).where(rollouts.run == run)
            made.append(Reuse(run=run, others=others, calls=_scalar(store, paid), rollouts=_scalar(store, kept)))
    return made


def archive(source: Store, run: str, target: Store, *, keep: bool = False) -> dict[str, int]:
    """Move a run with all its rows into another store; memory stays flat, whatever its size.

    Args:
        run: its id.
        keep: leave it where it is too.

    Returns:
        How many rows of each table the other store has of it.

    Raises:
        RunLocked: a process is at work on it.
        StoreError: the other store has another state of this run; or one of the two cannot be read or written.
    """
    if _one_place(source, target):
        raise ConfigError(f"{source.shown}: is the store that the run is in: name another")
    source.find_run(run)
    with _alone(source, run), _alone(target, run):
        if _has_batches(source, run):
            raise StoreError(f"run {run} has calls in a batch at a provider: let it go on until they are answered")
        moving = _state(source, run) == MOVING
        if _state(target, run) is None:
            if moving:
                raise StoreError(f"run {run} was being moved to another store than {target.shown}: name that one")
            for table in OF_RUNS:  # what a copy left that was killed
                _take_out(target, table, run)
            for table in OF_RUNS:
                _copy(source, target, table, run)
            _copy(source, target, schema.runs, run)
        counts = _compare(source, target, run, moving=moving)
        if not keep:
            _mark(source, run, f"moving to {target.shown}: the same command goes on")
            for table in (*OF_RUNS, schema.runs):
                _take_out(source, table, run)
    return counts


def archive_served(source: Store, target: Store, *, keep: bool = False) -> int:
    """Move what was recorded of served requests into another store.

    Returns:
        How many there were.
    """
    moved = 0
    for rows in _pages(source, schema.served, None):
        target.writer.run_now(partial(_put_new, rows=rows))
        there = {row["id"]: row for row in _same(target, schema.served, None, rows)}
        if missing := [row["id"] for row in rows if there.get(row["id"]) != _carried(row)]:
            raise _differs(f"request {missing[0]}", target)
        moved += len(rows)
        if not keep:
            last = _key(schema.served, rows[-1])
            source.writer.run_now(partial(_delete, table=schema.served, run=None, last=last))
    return moved


def vacuum(store: Store) -> tuple[int, int]:
    """Give back the space that is not used any more. Whoever writes waits meanwhile.

    Returns:
        The bytes on the disk before and after.

    Raises:
        RunLocked: a process is at work on a run.
        StoreError: there is no room for the copy that a database makes of itself meanwhile.
    """
    before = store.read(_on_disk)[0]
    with contextlib.ExitStack() as stack:
        for record in store.runs():
            if record.state == "running":
                stack.enter_context(_alone(store, record.id))
        try:
            with store.apart() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("VACUUM")
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                else:
                    for table in schema.metadata.tables:
                        connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {table}")
        except SQLAlchemyError as error:
            raise store_error(store.shown, error) from error
    return before, store.read(_on_disk)[0]


def _one_place(source: Store, target: Store) -> bool:
    """Whether both are one file, whatever it is called; of one database on a server the lock of a run would tell."""
    if source.path is None or target.path is None:
        return source.shown == target.shown
    return source.path.samefile(target.path)


@contextlib.contextmanager
def _alone(store: Store, run: str) -> Iterator[None]:
    lock = store.lock(run)
    try:
        yield
    finally:
        lock.release()


def _state(store: Store, run: str) -> str | None:
    """Of a run; `None` if the store does not have it."""
    query = sa.select(schema.runs.c.state).where(schema.runs.c.id == run)
    state: str | None = _scalar(store, query)
    return state


def _has_batches(store: Store, run: str) -> bool:
    """Whether calls of a run are at a provider, and found again by their numbers in this store."""
    columns = schema.batches.c
    query = sa.select(columns.number).where(columns.run == run, columns.ended_at.is_(None)).limit(1)
    return _scalar(store, query) is not None


def _mark(store: Store, run: str, detail: str) -> None:
    values = {"state": MOVING, "detail": detail, "updated_at": time.time()}
    update = schema.runs.update().where(schema.runs.c.id == run).values(values)
    store.writer.run_now(lambda connection: connection.execute(update).rowcount)


def _natural(table: sa.Table) -> list[sa.Column[Any]]:
    """What names a row of a run in every store, in the order of an index.

    The run itself is not in it: of a comparison that begins with it SQLite would read all rows of the run each time.
    """
    if table is schema.calls:
        return [table.c[name] for name in ("key", "request_hash", "attempt")]
    key = list(table.primary_key.columns)
    return [column for column in key if column.name != "run"] or key


def _key(table: sa.Table, row: Row) -> Key:
    return tuple(row[column.name] for column in _natural(table))


def _of(table: sa.Table, run: str | None) -> list[sa.ColumnElement[bool]]:
    """The condition for the rows of a run; none for a table that is of no run."""
    return [] if run is None else [(table.c.id if table is schema.runs else table.c.run) == run]


def _scalar(store: Store, query: sa.Select[Any]) -> Any:
    return store.read(lambda connection: connection.execute(query).scalar())


def _rows(store: Store, query: sa.Select[Any]) -> list[Row]:
    return store.read(lambda connection: [dict(row._mapping) for row in connection.execute(query)])


def _pages(
    store: Store, table: sa.Table, run: str | None, order: Sequence[sa.Column[Any]] | None = None
) -> Iterator[list[Row]]:
    """The rows of a run, so many at a time, in an order that is unique; of the natural key by default."""
    columns = list(order or _natural(table))
    last: Key | None = None
    while True:
        query = sa.select(table).where(*_of(table, run)).order_by(*columns).limit(AT_A_TIME)
        if last is not None:
            query = query.where(sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, last)))
        rows = _rows(store, query)
        if rows:
            yield rows
        if len(rows) < AT_A_TIME:
            return
        last = tuple(rows[-1][column.name] for column in columns)


def _same(store: Store, table: sa.Table, run: str | None, rows: Sequence[Row]) -> list[Row]:
    """The rows of a store between the first and the last of some others, without what differs by store."""
    columns = sa.tuple_(*_natural(table))
    ends = [sa.tuple_(*map(sa.literal, _key(table, row))) for row in (rows[0], rows[-1])]
    query = sa.select(table).where(*_of(table, run), columns >= ends[0], columns <= ends[1])
    return [_carried(row, table) for row in _rows(store, query.order_by(*_natural(table)))]


def _carried(row: Row, table: sa.Table | None = None) -> Row:
    """A row as any store takes it. Calls are numbered by each store."""
    made = {key: plain(value) if isinstance(value, str) else value for key, value in row.items()}
    if table is schema.calls:
        del made["id"]
    if table is schema.batches:  # one that has ended needs to know no more which calls were its own
        made["calls"] = "[]"
    return made


def _copy(source: Store, target: Store, table: sa.Table, run: str) -> None:
    # Calls in the order in which they were made, for they are numbered anew.
    order = [table.c.id] if table is schema.calls else None
    for rows in _pages(source, table, run, order):
        carried = [_carried(row, table) for row in rows]
        target.writer.run_now(partial(_insert, table=table, rows=carried))


def _insert(connection: sa.Connection, table: sa.Table, rows: list[Row]) -> None:
    connection.execute(table.insert(), rows)


def _put_new(connection: sa.Connection, rows: list[Row]) -> None:
    """Insert those of some served requests that are not there yet."""
    columns = schema.served.c
    there = set(connection.execute(sa.select(columns.id).where(columns.id.in_([row["id"] for row in rows]))).scalars())
    if new := [_carried(row) for row in rows if row["id"] not in there]:
        connection.execute(schema.served.insert(), new)


def _compare(source: Store, target: Store, run: str, *, moving: bool) -> dict[str, int]:
    """Read a run back from both stores.

    Args:
        moving: some of its rows here may have been taken out before.

    Returns:
        How many rows of each table are there.

    Raises:
        StoreError: there is a difference.
    """
    counts: dict[str, int] = {}
    for table in OF_RUNS:
        here = 0
        for rows in _pages(source, table, run):
            here += len(rows)
            there = {_key(table, row): row for row in _same(target, table, run, rows)}
            if any(there.get(_key(table, row)) != _carried(row, table) for row in rows):
                raise _differs(f"run {run}", target, table.name)
        query = sa.select(sa.func.count()).where(*_of(table, run))
        counts[table.name] = _scalar(target, query)
        if counts[table.name] != here and not moving:
            raise _differs(f"run {run}", target, table.name)
    (ours,), (theirs,) = (
        _rows(store, sa.select(schema.runs).where(*_of(schema.runs, run))) for store in (source, target)
    )
    changed = {"state", "detail", "updated_at"} if moving else set()
    if any(_carried(ours)[name] != theirs[name] for name in ours if name not in changed):
        raise _differs(f"run {run}", target, "runs")
    return counts


def _differs(what: str, target: Store, table: str = "served") -> StoreError:
    return StoreError(
        f"{what} is in {target.shown} already, and another there (table {table}): move it to another store; it is "
        "still whole here"
    )


def _take_out(store: Store, table: sa.Table, run: str) -> None:
    """Delete the rows of a run, so many at a time that nobody who writes beside waits long."""
    columns = _natural(table)
    query = sa.select(*columns).where(*_of(table, run)).order_by(*columns).limit(AT_A_TIME)
    while rows := _rows(store, query):
        last = _key(table, rows[-1])
        store.writer.run_now(partial(_delete, table=table, run=run, last=last))


def _delete(connection: sa.Connection, table: sa.Table, run: str | None, last: Key) -> None:
    """Delete rows up to one of them."""
    upto = sa.tuple_(*_natural(table)) <= sa.tuple_(*map(sa.literal, last))
    connection.execute(table.delete().where(*_of(table, run), upto))

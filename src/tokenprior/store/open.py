"""Open: a store file or address, migrated to the newest schema, with what can be asked of it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tokenprior.errors import ConfigError, NotFound, StoreError
from tokenprior.library import Library
from tokenprior.redact import redact
from tokenprior.store import codec, schema
from tokenprior.store.address import Place, bare_engine, place_of, reading_engine, shown, writing_engine
from tokenprior.store.lock import RunLock, here, holder
from tokenprior.store.record import RunRecord, RunStore
from tokenprior.store.server_lock import RunWriter, ServerLock, ServerLocks, holder_on_server
from tokenprior.store.versions import LibraryVersion, versions
from tokenprior.store.writer import NAMED, Writer, store_error
from tokenprior.text import shorten

T = TypeVar("T")

NEWEST = "0005"
MIGRATING = 0x746F_6B65_6E70_7269  # the advisory lock of whoever changes the schema of a server
READ_AGAIN_S = 10.0
MOVING = "moving"  # the state of a run on its way to another store, see `archive`


def open_store(where: str | Path) -> Store:
    """Open a store, and make it if it is not there.

    Args:
        where: a file's path, or the address of a database on a server such as `postgresql+psycopg://...`.

    Raises:
        ConfigError: it is no such address, or its driver is not installed.
        StoreError: it cannot be opened, is no store, or was written by a newer tokenprior.
    """
    place = place_of(where)
    if isinstance(place, Path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place.parent}: cannot be made: {error.strerror}") from error
    identity = uuid.uuid4().hex
    engine = writing_engine(place, NAMED.format(identity))
    try:
        _migrate(engine, shown(place))
    except StoreError:
        engine.dispose()
        raise
    except SQLAlchemyError as error:
        engine.dispose()
        cause = shorten(getattr(error, "orig", None) or error, 200)
        advice = "is the folder writable, and the file a store?"
        if not isinstance(place, Path):
            advice = "is the server up, and are user, password and database right?"
        raise StoreError(f"{shown(place)}: cannot be opened: {cause} ({advice})") from error
    return Store(engine, place, identity)


def _migrate(engine: sa.Engine, where: str) -> None:
    """Bring the schema up to date, in one transaction: of several that come at once, one does it."""
    with engine.connect() as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        if sa.inspect(connection).has_table("alembic_version"):
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if found == NEWEST:
                return
            if found is not None and not re.fullmatch(r"\d{4}", str(found)):
                raise StoreError(f"{where}: is another program's database, no store: give another")
            if found is not None and str(found) > NEWEST:
                raise StoreError(f"{where}: written by a newer tokenprior (schema {found}): pip install -U tokenprior")
        elif sa.inspect(connection).get_table_names():
            raise StoreError(f"{where}: is another program's database, no store: give another")
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


class Store:
    """An open store. Reading methods may be called from any thread; writing is done through a `RunStore`."""

    def __init__(self, engine: sa.Engine, place: Place, identity: str) -> None:
        self._engine, self._place, self._shown = engine, place, shown(place)
        self._reading = reading_engine(place)
        self._locks = None if isinstance(place, Path) else ServerLocks(identity, self._shown)
        again = self._locks.take_again if self._locks else None
        self.writer = Writer(engine, self._shown, identity, again)

    def close(self) -> None:
        """Finish what was asked for and close."""
        self.writer.close()
        self._reading.dispose()
        self._engine.dispose()

    def read(self, operation: Callable[[sa.Connection], T]) -> T:
        """Look something up, in one transaction that sees all that was committed before it began.

        It has a connection that takes no lock from whoever writes, in this process or another, and cannot write itself.
        If a server drops it, the operation is called again, for some seconds.

        Raises:
            StoreError: it cannot be read, or is closed.
        """
        began, pause = time.monotonic(), 0.1
        while True:
            if self.writer.closed:
                raise StoreError(f"{self._shown}: the store is closed")
            try:
                with self._reading.connect() as connection, connection.begin():
                    return operation(connection)
            except SQLAlchemyError as error:
                dropped = isinstance(error, OperationalError) and not isinstance(self._place, Path)
                if not dropped or time.monotonic() - began > READ_AGAIN_S:
                    raise store_error(self._shown, error) from error
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open_run(self, run: str, *, name: str, kind: str, config: dict[str, Any]) -> RunStore:
        """Begin a run, or go on with it.

        Args:
            run: its id: the name and a hash of all that can change its outcome.
            name: what the user calls it; runs of one name share what they paid for.
            kind: `learn`, `compare`, `audit` or `evaluate`.
            config: what it is started with.

        Raises:
            RunLocked: another process is at work on it.
        """
        lock = self.lock(run)

        def begin(connection: sa.Connection) -> None:
            now = time.time()
            # Of one id budgets and where the config lies may differ: what holds is what it was last started with.
            started_with = json.dumps(codec.redacted(config), sort_keys=True)
            known = connection.execute(sa.select(schema.runs.c.state).where(schema.runs.c.id == run)).scalar()
            if known == MOVING:
                raise StoreError(
                    f"run {run} is on its way to another store: `tokenprior store archive {run} --to STORE` goes on "
                    "with that"
                )
            if known:
                changed = {"state": "running", "detail": "", "updated_at": now, "config": started_with}
                connection.execute(schema.runs.update().where(schema.runs.c.id == run).values(changed))
            else:
                connection.execute(
                    schema.runs.insert().values(
                        id=run,
                        name=name,
                        kind=kind,
                        config=started_with,
                        state="running",
                        detail="",
                        created_at=now,
                        updated_at=now,
                    )
                )
            # Whoever left these in flight is gone, for we hold the lock; they stay charged with what they reserved.
            doubt = (schema.calls.c.run == run) & (schema.calls.c.state == "sent")
            connection.execute(schema.calls.update().where(doubt).values(state="unknown"))

        writer = RunWriter(self.writer, lock) if isinstance(lock, ServerLock) else self.writer
        try:
            writer.run_now(begin)
        except BaseException:
            lock.release()
            raise
        return RunStore(writer, run, name, lock)

    @property
    def shown(self) -> str:
        """Where it is, without its password."""
        return self._shown

    @contextmanager
    def apart(self) -> Iterator[sa.Connection]:
        """A connection of its own that begins no transaction, for what a database does with itself as a whole."""
        engine = bare_engine(self._place)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def is_at(self, where: str) -> bool:
        """Whether this is the store that an address or a path names."""
        place = place_of(where)
        if isinstance(place, Path) and isinstance(self._place, Path):
            return place.resolve() == self._place.resolve()
        return place == self._place

    @property
    def path(self) -> Path | None:
        """The file; `None` for a database on a server."""
        return self._place if isinstance(self._place, Path) else None

    def holder(self, run: str) -> int | None:
        """The process of this machine at work on a run; `None` if there is none, or if that cannot be told."""
        if isinstance(self._place, Path):
            return holder(self._place, run)
        process = self.read(lambda connection: holder_on_server(connection, run))
        return here(process) if process else None

    def held_elsewhere(self, run: str) -> bool:
        """Whether a process of another machine is known to be at work on a run; of a file that cannot be told."""
        if isinstance(self._place, Path):
            return False
        process = self.read(lambda connection: holder_on_server(connection, run))
        return process is not None and here(process) is None

    def lock(self, run: str) -> RunLock | ServerLock:
        """Keep every other process from working on a run, until the lock is released.

        Raises:
            RunLocked: one is at work on it.
        """
        if isinstance(self._place, Path):
            return RunLock(self._place, run)
        assert self._locks is not None, "a server has them"
        return ServerLock(self._locks, self.writer, run)

    def runs(self) -> list[RunRecord]:
        """All runs, the newest first."""

        def read(connection: sa.Connection) -> list[RunRecord]:
            rows = connection.execute(
                sa.select(schema.runs).order_by(schema.runs.c.created_at.desc(), schema.runs.c.id.desc())
            )
            return [RunRecord.of(row._mapping) for row in rows]

        return self.read(read)

    def find_run(self, run: str) -> RunRecord:
        """The run of this id, else the newest of this name, else the newest whose id begins so.

        Raises:
            NotFound: names the runs that there are.
            ConfigError: runs of several names begin so.
        """
        runs = self.runs()
        # A name means what was learned under it, not the comparisons that came after.
        learned_first = sorted(runs, key=lambda record: record.kind != "learn")
        named = [r for r in runs if r.id == run] or [r for r in learned_first if r.name == run]
        begun = [r for r in learned_first if r.id.startswith(run)]
        if not named and len({r.name for r in begun}) > 1:
            raise ConfigError(f"{self._shown}: several runs begin with {run!r}: {', '.join(r.id for r in begun[:8])}")
        if named or begun:
            return (named or begun)[0]
        known = ", ".join(record.id for record in runs[:8]) or "none yet"
        raise NotFound(f"{self._shown}: no run {run!r}; there are: {known}")

    def library(self, run: str, at: int | str | None = None) -> Library:
        """A library of a run.

        Args:
            at: a step, for what learning went on from after it; the beginning of a version, for any that was tried,
                kept or made by hand; `None` for what is used: the pinned one, else what ships after the last step, else
                what the run began with.

        Raises:
            NotFound: the run has no such step or version.
        """
        found = self.read(lambda connection: library_in(connection, run, at))
        if found is None:
            what = f"step {at}" if isinstance(at, int) else f"version {at!r}"
            raise NotFound(f"{self._shown}: run {run} has no {what}: tokenprior history shows what there is")
        return found

    def versions(self, run: str) -> list[LibraryVersion]:
        """Every library that a run tried or kept, or that was made by hand, oldest first, with its evidence.

        None before its first step, unless one was made by hand.
        """
        pins = self.rows("pins", run)
        pinned = pins[-1]["version"] if pins else None
        start = self.find_run(run).start
        rows = {table: self.rows(table, run) for table in ("steps", "trials", "operations", "edits")}
        return versions(start, rows["steps"], rows["trials"], rows["operations"], pinned, rows["edits"])

    def pin(self, run: str, version: str | None, reason: str) -> None:
        """Use a version from now on, whatever learning ships; `None` goes back to what learning ships.

        Raises:
            NotFound: the run has no such version.
        """
        chosen = None if version is None else self.library(run, version).version

        def write(connection: sa.Connection) -> None:
            alone_with(connection, run)
            pin_in(connection, run, chosen, reason)

        self.writer.run_now(write)

    def rows(self, table: str, run: str, *where: Any, without: Collection[str] = ()) -> list[dict[str, Any]]:
        """All rows of one run in one table, in the order of its key; JSON columns as values.

        Args:
            table: a table of `schema`.
            where: conditions on its columns.
            without: columns to leave out, for they may be large.
        """
        source = schema.metadata.tables[table]
        columns = [column for column in source.c if column.name not in without]
        texts = {"rollout", "reward", "advantage", "library", "report", "operation", "reply", "request", "result"}
        texts |= {"shipped", "observations", "candidate", "figures", "arguments", "operations", "edited", "comparison"}

        def read(connection: sa.Connection) -> list[dict[str, Any]]:
            query = sa.select(*columns).where(source.c.run == run, *where).order_by(*source.primary_key.columns)
            return [dict(row._mapping) for row in connection.execute(query)]

        return [
            {key: json.loads(value) if key in texts and value is not None else value for key, value in row.items()}
            for row in self.read(read)
        ]


def library_in(connection: sa.Connection, run: str, at: int | str | None = None) -> Library | None:
    """A library of a run within a transaction, see `Store.library`; `None` if the run has no such step or version."""
    steps, trials, pins, edits = schema.steps.c, schema.trials.c, schema.pins.c, schema.edits.c
    wanted = at
    if wanted is None:
        chosen = sa.select(pins.version).where(pins.run == run).order_by(pins.sequence.desc()).limit(1)
        wanted = connection.execute(chosen).scalar()
    if wanted is None:
        queries = [sa.select(steps.shipped).where(steps.run == run).order_by(steps.step.desc())]
    elif isinstance(wanted, int):
        queries = [sa.select(steps.library).where(steps.run == run, steps.step == wanted)]
    else:
        queries = [
            sa.select(column).where(version.startswith(wanted), of == run).order_by(order.desc())
            for column, version, of, order in (
                (steps.shipped, steps.shipped_version, steps.run, steps.step),
                (steps.library, steps.library_version, steps.run, steps.step),
                (trials.candidate, trials.candidate_version, trials.run, trials.step),
                (edits.edited, edits.edited_version, edits.run, edits.sequence),
            )
        ]
    for query in queries:
        if found := connection.execute(query.limit(1)).scalar():
            return Library.from_json(json.loads(found))
    text = connection.execute(sa.select(schema.runs.c.start).where(schema.runs.c.id == run)).scalar()
    start = Library.from_json(json.loads(text)) if text else Library()
    return None if isinstance(at, int) or not start.version.startswith(at or "") else start


def alone_with(connection: sa.Connection, run: str) -> None:
    """Of those who change by hand what a run uses, one after the other: SQLite has one writer, a server many."""
    connection.execute(sa.select(schema.runs.c.id).where(schema.runs.c.id == run).with_for_update())


def pin_in(connection: sa.Connection, run: str, version: str | None, reason: str) -> None:
    """Note within a transaction what is used from now on, `alone_with` the run."""
    count = sa.select(sa.func.count()).where(schema.pins.c.run == run)
    connection.execute(
        schema.pins.insert().values(
            run=run,
            sequence=connection.execute(count).scalar_one(),
            version=version,
            reason=codec.plain(redact(reason)),
            pinned_at=time.time(),
        )
    )

"""Server lock: one process at a run of a store on a server.

It is an advisory lock of the very session that writes: whoever writes has it. If the session is lost the lock is taken
again with the next one. If another process had the run meanwhile, even if it is done with it, this one is out, and
writes nothing more of that run: what it knows is no longer so.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from tokenprior.errors import RunLocked, StoreError
from tokenprior.store import schema
from tokenprior.store.lock import LOOK_S, LOOKS
from tokenprior.store.writer import Operation, Writer

T = TypeVar("T")


class ServerLocks:
    """The locks of one writer.

    Args:
        identity: of the writer.
        where: the store, as it may be shown.
    """

    def __init__(self, identity: str, where: str) -> None:
        self.identity, self._where = identity, where
        self.held: dict[str, ServerLock] = {}

    def take_again(self, connection: sa.Connection) -> None:
        """With a new session of the writer: whichever run is still ours is so for good, the others are lost."""
        columns = schema.holders.c
        for run, lock in self.held.items():
            with connection.begin():
                mine = sa.select(columns.writer).where(columns.run == run)
                lock.lost = not _tried(connection, run) or connection.execute(mine).scalar() != self.identity
                if lock.lost:
                    _let_go(connection, run)

    def refusal(self, run: str) -> RunLocked:
        """What whoever comes too late is told."""
        return RunLocked(
            f"run {run} in {self._where} is being worked on by another process: wait for it, or stop it first"
        )


class ServerLock:
    """A lock on one run.

    Attributes:
        lost: whether another process had the run while the session was gone. Only the writer's thread sets it.

    Raises:
        RunLocked: another process, or this one, is at work on the run.
    """

    def __init__(self, locks: ServerLocks, writer: Writer, run: str) -> None:
        self._locks, self._writer, self._run = locks, writer, run
        self.lost = False
        try:
            writer.run_now(self._take)
        except BaseException:
            if locks.held.get(run) is self:
                self.release()
            raise

    def _take(self, connection: sa.Connection) -> None:
        """As an operation of the writer: it may be done more than once."""
        if self._locks.held.get(self._run, self) is not self:
            raise self._locks.refusal(self._run)
        tries = LOOKS  # the session of a process that was killed is there for a moment yet
        while not _tried(connection, self._run):
            if not (tries := tries - 1):
                raise self._locks.refusal(self._run)
            time.sleep(LOOK_S)
        self._locks.held[self._run], self.lost = self, False
        table = schema.holders
        connection.execute(table.delete().where(table.c.run == self._run))
        connection.execute(table.insert().values(run=self._run, writer=self._locks.identity))

    def release(self) -> None:
        """Let go. Of a session that is gone the server has let go already."""
        columns = schema.holders.c
        own = (columns.run == self._run, columns.writer == self._locks.identity)

        def write(connection: sa.Connection) -> None:
            if not self.lost:
                connection.execute(schema.holders.delete().where(*own))
                _let_go(connection, self._run)
            self._locks.held.pop(self._run, None)

        with contextlib.suppress(StoreError):
            self._writer.run_now(write)

    def require(self) -> None:
        """In the writer's thread: have an operation fail that would write of a run that was lost.

        Raises:
            RunLocked: it was.
        """
        if self.lost:
            raise self._locks.refusal(self._run)


class RunWriter:
    """The writer as one run uses it: it carries out nothing once the run was lost to another process."""

    def __init__(self, writer: Writer, lock: ServerLock) -> None:
        self._writer, self._lock = writer, lock

    async def run(self, operation: Callable[[sa.Connection], T]) -> T:
        return await self._writer.run(self._guarded(operation))

    def run_now(self, operation: Callable[[sa.Connection], T]) -> T:
        return self._writer.run_now(self._guarded(operation))

    def leave(self, operation: Operation) -> None:
        self._writer.leave(self._guarded(operation))

    def _guarded(self, operation: Callable[[sa.Connection], T]) -> Callable[[sa.Connection], T]:
        def guarded(connection: sa.Connection) -> T:
            self._lock.require()
            return operation(connection)

        return guarded


def holder_on_server(connection: sa.Connection, run: str) -> str | None:
    """The process that works on a run, as `me` writes it; `None` if there is none."""
    number = _number(connection, run) & 0xFFFF_FFFF_FFFF_FFFF
    locks = sa.text(
        "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
        "WHERE locktype = 'advisory' AND datname = current_database() AND granted AND objsubid = 1 "
        "AND classid::bigint = :high AND objid::bigint = :low"
    )
    if not connection.execute(locks, {"high": number >> 32, "low": number & 0xFFFF_FFFF}).first():
        return None
    writers, holders = schema.writers, schema.holders
    known = sa.select(writers.c.process).join(holders, holders.c.writer == writers.c.id).where(holders.c.run == run)
    process: str | None = connection.execute(known).scalar()
    return process


def _number(connection: sa.Connection, run: str) -> int:
    """What the advisory lock of a run is called: a database may hold several stores, each in a schema of its own."""
    store = connection.execute(sa.select(sa.func.current_schema())).scalar_one()
    return int.from_bytes(hashlib.sha256(f"{store} {run}".encode()).digest()[:8], "big", signed=True)


def _tried(connection: sa.Connection, run: str) -> bool:
    return bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(_number(connection, run)))).scalar())


def _let_go(connection: sa.Connection, run: str) -> None:
    """As often as it was taken."""
    unlock = sa.select(sa.func.pg_advisory_unlock(_number(connection, run)))
    while connection.execute(unlock).scalar():
        pass

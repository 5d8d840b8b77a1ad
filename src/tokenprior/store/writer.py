"""Writer: one thread, one connection, many operations to a commit.

Every operation is a function of the connection, called again if what it shared a commit with went wrong. Those that
wait while a commit is under way share the next one (group commit), so that each call can be durable before it leaves
without paying a disk flush of its own. What an operation returns reaches its caller only after the commit.

A server may be restarted, or a connection drop. Then the writer connects again, for some minutes, and goes on:

1. Sessions of its own that the server has not yet given up are ended, so that nothing of theirs can come late.
2. The locks of its runs are taken again (`Session.on_connect`). Whoever lost one writes nothing more of that run.
3. If the connection dropped in the middle of a commit, the count of commits in the table `writers`, which is part of
   each commit, says whether that one was kept. It is not done twice, and not left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from tokenprior.errors import StoreError, TokenpriorError
from tokenprior.store import schema
from tokenprior.store.lock import me
from tokenprior.text import shorten

T = TypeVar("T")
Operation = Callable[[Connection], Any]
Waiting = Future[Any] | asyncio.Future[Any]  # of a thread, or of an event loop

MAX_BATCH = 512
GIVES_UP_AFTER_S = 300.0
PAUSES_S = (0.1, 5.0)  # between two tries to connect: the first pause and the longest
REMEMBERED_S = 30 * 86_400.0  # how long a writer is known that ended without a word
TOLD_EVERY_S = 30.0
ENDED_WITHIN = 300  # looks, each after a pause
NAMED = "tokenprior {}"  # the connection of a writer on a server

log = logging.getLogger("tokenprior.store")


class _NoAnswer(StoreError):
    """The server did not answer for as long as it was waited for."""


class Writer:
    """Runs operations in the order in which they come in.

    Args:
        engine: for one connection.
        where: the store, as it may be shown.
        identity: of this writer among all that ever write to a server.
        on_connect: called in the writer's thread with each new connection but the first, before anything else is done
            with it.
    """

    def __init__(
        self, engine: Engine, where: str, identity: str = "", on_connect: Callable[[Connection], None] | None = None
    ) -> None:
        self._engine, self._where, self._identity, self._on_connect = engine, where, identity, on_connect
        self._server = engine.dialect.name != "sqlite"
        self._connection: Connection | None = None
        self._first = True
        self._commits = 0
        self._patience_s = GIVES_UP_AFTER_S
        self._queue: queue.SimpleQueue[tuple[Operation, Waiting] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tokenprior-store", daemon=True)
        self._closed = False
        self._hurried = threading.Event()  # a server that does not answer is not waited for
        self._thread.start()

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Carry out an operation; returns after its commit.

        Raises:
            StoreError: the operation or its commit failed, and left nothing behind; or the store did not answer for
                some minutes, and whether the operation was kept is not known.
        """
        # Not `asyncio.wrap_future`: it wakes the event loop once for each, and this once for each commit.
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(operation, future)
        return await future

    def run_now(self, operation: Callable[[Connection], T]) -> T:
        """The same for a caller without an event loop."""
        future: Future[T] = Future()
        self._put(operation, future)
        try:
            return future.result()
        except KeyboardInterrupt:
            self._hurried.set()  # whoever stops us does not wait for a server
            raise

    def leave(self, operation: Operation) -> None:
        """The same for a caller who does not wait: whether it went well is told to nobody."""
        self._put(operation, Future())

    @property
    def closed(self) -> bool:
        return self._closed

    def _put(self, operation: Operation, future: Waiting) -> None:
        if self.closed:
            raise StoreError(f"{self._where}: the store is closed")
        self._queue.put((operation, future))

    def close(self) -> None:
        """Finish what was asked for, then end the thread. A server that does not answer is not waited for."""
        if not self.closed:
            self._closed = True
            self._hurried.set()
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        last = False
        while not last and (first := self._queue.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while len(batch) < MAX_BATCH:
                    item = self._queue.get_nowait()
                    if item is None:
                        last = True
                        break
                    batch.append(item)
            self._commit(batch)
        if self._server and self._connection is not None:
            gone = schema.writers.delete().where(schema.writers.c.id == self._identity)
            with contextlib.suppress(DBAPIError), self._connection.begin():
                self._connection.execute(gone)
        self._disconnect()

    def _commit(self, batch: list[tuple[Operation, Waiting]]) -> None:
        try:
            results = self._committed([operation for operation, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, _NoAnswer):
                # Nothing of it was kept. One bad operation does not take its neighbours with it: each goes alone now.
                # Not by savepoints: a full disk makes SQLite roll back all of a transaction, savepoints included.
                for one in batch:
                    self._commit([one])
                return
            told = error if isinstance(error, TokenpriorError) else store_error(self._where, error)
            _settle([(future, told) for _, future in batch])
            return
        _settle([(future, result) for (_, future), result in zip(batch, results, strict=True)])

    def _committed(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations in one transaction, however often the connection drops."""
        in_doubt: list[Any] | None = None  # what they returned, of a commit that was not answered
        while True:
            connection = self._connect()
            counted = False
            try:
                if in_doubt is not None and self._was_kept(connection):
                    self._commits += 1
                    return in_doubt
                in_doubt = None
                with connection.begin():
                    results = [operation(connection) for operation in operations]
                    counted = self._count(connection)
                    in_doubt = results if counted else None
            except DBAPIError as error:
                if not (self._server and error.connection_invalidated):
                    raise
                self._disconnect()
            else:
                self._commits += counted
                return results

    # A server.

    def _count(self, connection: Connection) -> bool:
        """Count this commit, if it is to change anything; whether it is."""
        if not self._server:
            return False
        table = schema.writers
        changed = (table.c.id == self._identity, sa.func.pg_current_xact_id_if_assigned().is_not(None))
        now = {"commits": self._commits + 1, "seen_at": time.time()}
        return connection.execute(table.update().where(*changed).values(now)).rowcount == 1

    def _was_kept(self, connection: Connection) -> bool:
        """Whether the commit in doubt was; waits for a transaction that is still on its way."""
        columns = schema.writers.c
        with connection.begin():
            query = sa.select(columns.commits).where(columns.id == self._identity).with_for_update()
            return connection.execute(query).scalar() == self._commits + 1

    def _connect(self) -> Connection:
        """The connection; if it was lost, or there was none yet, a new one.

        Raises:
            StoreError: the server did not answer for some minutes.
        """
        if self._connection is not None:
            return self._connection
        began, pause = time.monotonic(), PAUSES_S[0]
        told_at: float | None = None
        while True:
            try:
                self._connection = self._engine.connect()
                if self._server:
                    first, self._first = self._first, False
                    self._introduce(self._connection, first=first)
            except (DBAPIError, StoreError) as error:
                self._disconnect()
                # What a server says that is up, such as that this user may not write, it would say again.
                if not self._server or not isinstance(error, OperationalError | InterfaceError):
                    raise
                cause = shorten(error.orig, 200)
                if time.monotonic() - began >= self._patience_s or self._hurried.is_set():
                    self._patience_s = 0.0  # of what waits behind this, nothing waits as long again
                    raise _NoAnswer(
                        f"{self._where}: the store does not answer: {cause}; what was written before is safe, and the "
                        "same command goes on"
                    ) from error
                if told_at is None or time.monotonic() - told_at >= TOLD_EVERY_S:
                    told_at = time.monotonic()
                    log.warning("%s: the store does not answer, trying again: %s", self._where, cause)
                self._hurried.wait(pause)
                pause = min(2 * pause, PAUSES_S[1])
            else:
                if told_at is not None:
                    log.warning("%s: the store answers again", self._where)
                self._patience_s = GIVES_UP_AFTER_S
                return self._connection

    def _introduce(self, connection: Connection, *, first: bool) -> None:
        """Make this writer known on a new connection, and the only one of its name."""
        if not first:
            others = sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = :name AND pid <> pg_backend_pid()"
            )
            for _ in range(ENDED_WITHIN):
                with connection.begin():
                    if not connection.execute(others, {"name": NAMED.format(self._identity)}).all():
                        break
                time.sleep(PAUSES_S[0])
            else:
                raise StoreError(f"{self._where}: the server does not end the session that was lost: end it by hand")
        from sqlalchemy.dialects.postgresql import insert

        columns, now = schema.writers.c, time.time()
        row = {"id": self._identity, "process": me(), "commits": 0, "seen_at": now}
        with connection.begin():
            connection.execute(insert(schema.writers).values(row).on_conflict_do_nothing())
            connection.execute(schema.writers.delete().where(columns.seen_at < now - REMEMBERED_S))
        if not first and self._on_connect:
            self._on_connect(connection)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.invalidate()
            connection.close()


def store_error(where: str, error: Exception) -> StoreError:
    """What a database said, as an error of ours.

    Args:
        where: the store, as it may be shown.
    """
    cause = getattr(error, "orig", None) or error
    text = str(cause).casefold()
    advice = ""
    if "readonly" in text or "read-only" in text:
        advice = ": make the file and its folder writable"
    elif "full" in text:
        advice = ": free some space; what was written before is safe, and the same command goes on"
    made = StoreError(f"{where}: {shorten(cause, 200)}{advice}")
    made.__cause__ = error
    return made


def _settle(ends: Sequence[tuple[Waiting, Any]]) -> None:
    """Tell those who wait what came of it: an exception, or a result."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for future, end in ends:
        if isinstance(future, asyncio.Future):
            loops.setdefault(future.get_loop(), []).append((future, end))
        elif isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)
    for loop, of_loop in loops.items():
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits any more
            loop.call_soon_threadsafe(_wake, of_loop)


def _wake(ends: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, end in ends:
        if future.done():
            continue  # whoever waited was cancelled
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)

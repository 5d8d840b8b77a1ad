"""Writer: one thread, one connection, many operations to a commit.

Every operation is a function of the connection, called again if what it shared a commit with went wrong. Those that
wait while a commit is under way share the next one (group commit), so that each call can be durable before it leaves
without paying a disk flush of its own. What an operation returns reaches its caller only after the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from tokenprior.errors import StoreError, TokenpriorError
from tokenprior.text import shorten

T = TypeVar("T")
Operation = Callable[[Connection], Any]

MAX_BATCH = 512


class Writer:
    """Runs operations in the order in which they come in."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine, self._where = engine, where
        self._queue: queue.SimpleQueue[tuple[Operation, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tokenprior-store", daemon=True)
        self._thread.start()
        self._closed = False

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Carry out an operation; returns after its commit.

        Raises:
            StoreError: the operation or its commit failed, and left nothing behind.
        """
        return await asyncio.wrap_future(self._put(operation))

    def run_now(self, operation: Callable[[Connection], T]) -> T:
        """The same for a caller without an event loop."""
        return self._put(operation).result()

    def leave(self, operation: Operation) -> None:
        """The same for a caller who does not wait: whether it went well is told to nobody."""
        self._put(operation)

    @property
    def closed(self) -> bool:
        return self._closed

    def _put(self, operation: Callable[[Connection], T]) -> Future[T]:
        if self._closed:
            raise StoreError(f"{self._where}: the store is closed")
        future: Future[T] = Future()
        self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """Finish what was asked for, then end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        with self._engine.connect() as connection:
            while (first := self._queue.get()) is not None:
                batch, last = [first], False
                with contextlib.suppress(queue.Empty):
                    while len(batch) < MAX_BATCH:
                        item = self._queue.get_nowait()
                        if item is None:
                            last = True
                            break
                        batch.append(item)
                self._commit(connection, batch)
                if last:
                    return

    def _commit(self, connection: Connection, batch: list[tuple[Operation, Future[Any]]]) -> None:
        try:
            with connection.begin():
                results = [operation(connection) for operation, _ in batch]
        except Exception as error:
            if len(batch) > 1:
                # Nothing of it was kept. One bad operation does not take its neighbours with it: each goes alone now.
                # Not by savepoints: a full disk makes SQLite roll back all of a transaction, savepoints included.
                for one in batch:
                    self._commit(connection, [one])
                return
            _settle(batch[0][1], error=error if isinstance(error, TokenpriorError) else store_error(self._where, error))
            return
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result=result)


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


def _settle(future: Future[Any], *, result: Any = None, error: Exception | None = None) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""Lock: one process at a run of a store file. The system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from tokenprior.errors import RunLocked, StoreError

# Whoever asks for the `holder` of a lock has it for a moment, and is no reason to give up.
LOOKS, LOOK_S = 5, 0.05


class RunLock:
    """An exclusive lock on one run of one store file.

    Raises:
        RunLocked: another process holds it.
    """

    def __init__(self, store: Path, run: str) -> None:
        self._path = _place(store, run)
        tries = LOOKS
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise StoreError(f"{self._path}: cannot be opened: {error.strerror}") from error
            try:
                _lock(self._file)
            except OSError as error:
                os.close(self._file)
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                    raise StoreError(f"{self._path}: cannot be locked: {error.strerror}") from error
                if tries := tries - 1:
                    time.sleep(LOOK_S)
                    continue
                raise RunLocked(
                    f"run {run} in {store} is being worked on by another process: wait for it, or stop it first"
                ) from None
            # Whoever held it before takes the file away when done; a lock on a file that is gone locks nobody out.
            if _is_still(self._path, self._file):
                os.ftruncate(self._file, 0)
                os.write(self._file, me().encode())
                return
            os.close(self._file)

    def release(self) -> None:
        """Let go. The file is taken away first, while nobody else can hold it."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._file)


def holder(store: Path, run: str) -> int | None:
    """The process of this machine that holds the lock on a run; `None` if there is none, or if that cannot be told.

    A process that ended without letting go holds no lock any more, so no other process of its number is taken for it.
    """
    try:
        file = os.open(_place(store, run), os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(file)  # let go of again when the file is closed
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            return here(os.read(file, 300).decode())
    finally:
        os.close(file)
    return None


def _place(store: Path, run: str) -> Path:
    return store.with_name(f"{store.name}.{run}.lock")


def me() -> str:
    """This process: its number and its machine."""
    return f"{os.getpid()} {socket.gethostname()}"


def here(process: str) -> int | None:
    """The number of a process, as `me` wrote it; `None` for one of another machine."""
    number, _, machine = process.partition(" ")
    return int(number) if machine == socket.gethostname() else None


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except OSError:
        return False


if os.name == "nt":  # pragma: no cover

    def _lock(file: int) -> None:
        import msvcrt

        getattr(msvcrt, "locking")(file, getattr(msvcrt, "LK_NBLCK"), 1)  # noqa: B009 (other systems lack the names)

else:

    def _lock(file: int) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

"""Keep the embedded model's server alive while a run needs it, and leave nothing behind.

Order of events: `start` runs `embedded_server` as a child and reads its address from the one line it prints; a task
watches the child; `ensure`, called before each request or after a broken one, starts it again if it has died;
`aclose` ends it. The child is in a session of its own, so that Ctrl-C at the terminal reaches the run first and the
run closes the child; if the run is killed, the child's stdin ends and it ends with it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tokenprior.errors import EmbeddedModelError, MissingExtra

RESTARTS_IN_A_ROW = 3
STEADY_S = 60.0
CLOSE_S = 5.0
TAIL_LINES = 20  # llama.cpp writes from a thread of its own: its lines may come behind ours


class EmbeddedServer:
    """A local OpenAI-compatible server for one model file, restarted if it dies.

    Use it as an async context manager, within one event loop. It may be started again after `aclose`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        slots: int = 2,
        context_per_slot: int = 4096,
        threads: int | None = None,
        batch: int | None = None,
        slot_folder: str | Path | None = None,
        argv: Sequence[str] | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Nothing is started yet.

        Args:
            path: a GGUF file.
            slots: prompts answered side by side, 1 or more; more requests than slots wait in line.
            context_per_slot: tokens of prompt and reply together, 1 or more; memory grows with their product.
            threads: 1 or more; `None` takes the cores this process may use.
            batch: tokens of prompts evaluated in one go, 32 or more; `None` leaves it to llama.cpp.
            slot_folder: where the state of a slot may be written and read; see `models.slots`.
            argv: another program to run instead; it must print `listening http://HOST:PORT` and end with its stdin.
            start_timeout_s: how long loading may take.

        Raises:
            MissingExtra: xllamacpp is not installed.
            EmbeddedModelError: there is no such file, or a number is out of its range.
        """
        self.path = Path(path)
        if argv is None:
            if importlib.util.find_spec("xllamacpp") is None:
                raise MissingExtra("xllamacpp", "local", "the embedded model")
            if not self.path.is_file():
                raise EmbeddedModelError(f"{self.path}: no such model file: fetch one with `tokenprior models pull`")
            if slots < 1 or context_per_slot < 1 or (threads is not None and threads < 1):
                raise EmbeddedModelError(
                    f"slots {slots}, context_per_slot {context_per_slot}, threads {threads}: expected 1 or more"
                )
            argv = [sys.executable, "-m", "tokenprior.models.embedded_server", "--model", str(self.path)]
            argv += ["--slots", str(slots), "--context-per-slot", str(context_per_slot)]
            argv += ["--threads", str(threads)] if threads is not None else []
            argv += ["--batch", str(batch)] if batch is not None else []
            argv += ["--slot-folder", str(slot_folder)] if slot_folder is not None else []
        self._argv = list(argv)
        self._start_timeout_s = start_timeout_s
        self._lock = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log: IO[bytes] | None = None
        self._base_url = ""
        self._restarts = 0
        self._closed = True
        self._last_words = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1` of the latest start. A restart takes another port: ask `ensure`.

        Raises:
            EmbeddedModelError: it was never started.
        """
        if not self._base_url:
            raise EmbeddedModelError("the embedded model's server has not been started: call start() first")
        return self._base_url

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def start(self) -> str:
        """Start the server, if it is not running, and wait until it listens.

        Returns:
            `base_url`.

        Raises:
            EmbeddedModelError: it ended or did not listen in time; quotes the end of its log.
        """
        async with self._lock:
            self._closed = False
            self._restarts = 0
            if self.pid is None:
                await self._spawn()
            return self._base_url

    async def ensure(self) -> str:
        """The address of a living server. Callers that find it dead at the same time share one restart.

        Returns:
            `base_url`, which is another one after a restart.

        Raises:
            EmbeddedModelError: it is closed, it did not come up, or it has died after each of three restarts
                without having lived for a minute in between; quotes the end of its log.
        """
        async with self._lock:
            if self._closed:
                raise EmbeddedModelError("the embedded model's server is closed: call start() first")
            if self.pid is None:
                if self._restarts >= RESTARTS_IN_A_ROW:
                    raise EmbeddedModelError(
                        f"the embedded model's server died after each of {self._restarts} restarts{self._last_words}"
                    )
                self._restarts += 1
                await self._spawn()
            return self._base_url

    async def aclose(self) -> None:
        """End the server and remove its log: end of stdin and SIGTERM, then after five seconds SIGKILL. May be
        called twice, and while a start is under way."""
        self._closed = True
        if self._child is not None:
            await _end(self._child)
        async with self._lock:
            # A start that was between its first step and its child when we came by has ended by itself now.
            if self._watch is not None:
                await self._watch
            if self._log is not None:
                self._log.close()
            self._child = self._watch = self._log = None

    async def _spawn(self) -> None:
        if self._watch is not None:
            await self._watch
        if self._log is not None:
            self._log.close()
        # A file without a name leaves nothing behind even if we are killed, and cannot fill up like a pipe.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it outlives this call)
        try:
            child = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                creationflags=_creation_flags(),
            )
        except OSError as error:
            raise EmbeddedModelError(f"{self._argv[0]} cannot be run: {error.strerror}") from error
        self._child = child
        started = False
        try:
            if self._closed:
                raise EmbeddedModelError("the embedded model's server was closed while it started")
            address = await asyncio.wait_for(_address(child), self._start_timeout_s)
            self._base_url = f"{address.rstrip('/')}/v1"
            self._watch = asyncio.create_task(self._watch_over(child, self._log), name="embedded model")
            started = True
        except TimeoutError as error:
            self._last_words = f"; at last it did not listen within {self._start_timeout_s:g} s{_tail(self._log)}"
            raise EmbeddedModelError(
                f"the embedded model's server did not listen within {self._start_timeout_s:g} s{_tail(self._log)}"
            ) from error
        except EOFError as error:
            code = await child.wait()
            self._last_words = f"; at last it ended with {code}{_tail(self._log)}"
            raise EmbeddedModelError(
                f"the embedded model's server ended with {code} before it listened{_tail(self._log)}"
            ) from error
        finally:
            if not started:
                # Shielded: a cancelled start must not leave its child behind.
                await asyncio.shield(_end(child))

    async def _watch_over(self, child: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        """Note why it died, and forgive earlier deaths once it has lived for a while."""
        born = time.monotonic()
        code = await child.wait()
        if time.monotonic() - born >= STEADY_S:
            self._restarts = 0
        self._last_words = f"; at last it ended with {code}{_tail(log)}"
        _close_pipes(child)


async def _address(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    while line := await child.stdout.readline():
        words = line.decode("utf-8", "replace").split()
        if len(words) == 2 and words[0] == "listening" and words[1].startswith("http://"):
            return words[1]
    raise EOFError


async def _end(child: asyncio.subprocess.Process) -> None:
    """End this child and no other process."""
    _close_pipes(child)
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(child.wait(), CLOSE_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _close_pipes(child: asyncio.subprocess.Process) -> None:
    if child.stdin is not None:
        child.stdin.close()


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP
    return 0


def _tail(log: IO[bytes]) -> str:
    """The end of a log, as the end of a sentence. For a child that is dead or about to be: it shares our position."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
    text = log.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()][-TAIL_LINES:]
    return f": {' | '.join(lines)}" if lines else " (it said nothing)"

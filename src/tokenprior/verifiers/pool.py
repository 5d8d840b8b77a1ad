"""Worker processes with a hard kill, for work on model text that may never end.

A job that is over its time takes its process with it; the next job gets a new one. No thread or signal can do this:
a regular expression that backtracks holds the interpreter lock and hears neither.

Order of events: the first job starts a worker; the worker loads what it needs (not timed) and says so; jobs go in as
JSON lines and come out as JSON lines. `aclose` ends the workers.

When the parent is killed, an idle worker ends at once because its input closes, a busy one when its job or its alarm
ends, at most a second or two after the job's time limit. (The alarm exists on POSIX only.) Workers inherit
no environment variables that could hold a key, may use 2 GiB of memory where the system can be told so, and have the
rights of this user: they bound time and memory, they are no sandbox.

Workers are started by `subprocess`, not by `multiprocessing`: that one runs the user's main file again in every
worker, which fails in a script without a main guard, and starts a tracker process beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

START_TIMEOUT_S = 120.0
MEMORY_BYTES = 2 << 30
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from tokenprior.verifiers.pool import work; work(sys.argv[2])"
)


class JobFailed(Exception):
    """A job brought no result. Caught by the verifier that asked; never leaves the family."""


class TookTooLong(JobFailed):
    """A job was over its time and its process was killed."""


class Pool:
    """Runs one function in worker processes.

    Attributes:
        loader: `module:function`; the worker calls it once, without arguments, for the function that does the jobs.
            Arguments and results of that function are JSON values.
        size: the most workers at one time; jobs beyond wait in line, and their waiting does not count as their time.
    """

    def __init__(self, loader: str, *, size: int = 2) -> None:
        self.loader, self.size = loader, size
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._threads: ThreadPoolExecutor | None = None
        weakref.finalize(self, _end_all, self._all)

    async def run(self, *args: Any, timeout_s: float) -> Any:
        """The result of one job.

        Raises:
            TookTooLong: after `timeout_s` seconds.
            JobFailed: the function raised, or the worker could not start or died.
        """
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="tokenprior-pool")
            future = self._threads.submit(self._run, args, timeout_s)
        return await asyncio.wrap_future(future)

    async def aclose(self) -> None:
        """End all workers; jobs under way fail. A later `run` starts anew."""
        with self._lock:
            threads, self._threads = self._threads, None
            self._idle.clear()
            _end_all(self._all)
        if threads is not None:
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
            with self._lock:
                self._idle.clear()
                _end_all(self._all)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers there are."""
        with self._lock:
            return sorted(worker.pid for worker in self._all)

    def _run(self, args: tuple[Any, ...], timeout_s: float) -> Any:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            if worker is None or not worker.is_alive:
                if worker is not None:
                    self._drop(worker)
                worker = _Worker(self.loader)
                self._all.add(worker)
        try:
            worker.wait_until_ready()
            reply = worker.ask({"args": args, "timeout_s": timeout_s}, timeout_s)
        except JobFailed:
            with self._lock:
                self._drop(worker)
            raise
        with self._lock:
            if worker in self._all:
                self._idle.append(worker)
        if "error" in reply:
            raise JobFailed(reply["error"])
        return reply["value"]

    def _drop(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.end()


class _Worker:
    """The parent's side of one process. Used by one thread at a time; `end` may come from any."""

    def __init__(self, loader: str) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, json.dumps(sys.path), loader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        if self._ready:
            return
        reply = self.ask(None, START_TIMEOUT_S)
        if "error" in reply:
            raise JobFailed(f"the worker did not start: {reply['error']}")
        self._ready = True

    def ask(self, job: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            if job is not None:
                process.stdin.write(json.dumps(job).encode("ascii") + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):  # ValueError: `end` closed the pipe meanwhile
            line = b""
        finally:
            timer.cancel()
            timer.join()
        if line.endswith(b"\n"):
            reply: dict[str, Any] = json.loads(line)
            return reply
        # The worker's own alarm may come first where this thread was starved.
        alarm = getattr(signal, "SIGALRM", None)
        if late.is_set() or (alarm is not None and process.wait() == -alarm):
            raise TookTooLong(f"took longer than {timeout_s:g} s")
        raise JobFailed("the worker process died")

    def end(self) -> None:
        process = self._process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            # A write that the dead process never read is flushed at closing, and fails.
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _end_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().end()


def work(loader: str) -> None:
    """The worker's side: load, then do jobs until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
    # What a library prints must not get among the replies: antlr4 prints version remarks.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    alarm = getattr(signal, "alarm", None)

    def send(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply).encode("ascii") + b"\n")
        replies.flush()

    try:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        module, _, name = loader.partition(":")
        function = getattr(importlib.import_module(module), name)()
    except Exception as error:
        send({"error": f"{type(error).__name__}: {error}"[:300]})
        return
    with contextlib.suppress(BrokenPipeError):
        send({"ready": True})
        for line in sys.stdin.buffer:
            job = json.loads(line)
            if alarm is not None:
                alarm(math.ceil(job["timeout_s"]) + 1)
            try:
                reply = {"value": function(*job["args"])}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"[:300]}
            if alarm is not None:
                alarm(0)
            send(reply)

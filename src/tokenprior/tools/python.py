"""A code interpreter: Python that keeps its variables from call to call, in a sandbox.

Order of events: the first call starts an interpreter at the level that works here (`sandbox.active_level`); each call
runs its code and gives what it printed, as a notebook would; a call over a limit ends the interpreter with everything
it started, and the next call begins a fresh one; leaving the session ends it for good.

Covered and not covered: docs/sandbox.md. The base installation of the Python that runs tokenprior and the installed
packages of its virtual environment can be read and imported in the sandbox; nothing else of this machine's user can.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.task import Task, content_hash
from tokenprior.tools.base import ToolFailed, ToolSession, ToolSpec
from tokenprior.tools.sandbox import Level, active_level, interpreter
from tokenprior.tools.sandbox_launch import Limits
from tokenprior.tools.sandbox_process import NotStarted, ProcessInterpreter

RULE = 1
_DESCRIPTION = (
    "Run Python code and get what it prints, and the value of its last expression. Variables, functions and imports "
    "stay for later calls. There is no network and no input; files can be written in the working directory only."
)
_DESCRIPTION_MONTY = (
    "Run code in a subset of Python (few modules of the standard library, no packages, no files, no network) and get "
    "what it prints, and the value of its last expression. Variables and functions stay for later calls."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonTool:
    """The tool `python`, with one argument, `code`.

    An error in the code is a result like any other: the traceback, as text. Only an interpreter that does not start is
    a failed call.

    Attributes:
        level: how the code is held. `auto` is the strongest that works on this machine. `none` is no boundary: the
            code runs as this user and can read, change and send all that this user can; only time, memory and the
            like are limited. It is never chosen by `auto`.
        timeout_s: of one call, in seconds on the wall clock.
        cpu_s: processor seconds of one process over all calls of an attempt.
        memory_mb: memory in MiB, beside the interpreter's own.
        processes: the most at one time, beside the interpreter.
        files_mb: the most in the working directory, in MiB.
        output_chars: the most characters of a result; the middle is left out.

    Raises:
        ConfigError: a limit is not a positive number.
    """

    level: Level = "auto"
    timeout_s: float = 20.0
    cpu_s: int = 120
    memory_mb: int = 512
    processes: int = 16
    files_mb: int = 64
    output_chars: int = 8000

    def __post_init__(self) -> None:
        for name in ("timeout_s", "cpu_s", "memory_mb", "processes", "files_mb", "output_chars"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"code interpreter: {name} is {getattr(self, name)!r}, expected more than 0")

    @property
    def limits(self) -> Limits:
        return Limits(
            timeout_s=self.timeout_s,
            cpu_s=self.cpu_s,
            memory_mb=self.memory_mb,
            processes=self.processes,
            files_mb=self.files_mb,
            output_chars=self.output_chars,
        )

    @property
    def spec(self) -> ToolSpec:
        """What a model is told. Probes the level once in this process.

        Raises:
            ConfigError: the level does not work on this machine.
        """
        return ToolSpec(
            name="python",
            description=_DESCRIPTION_MONTY if active_level(self.level) == "monty" else _DESCRIPTION,
            parameters={
                "type": "object",
                "properties": {"code": {"type": "string", "description": "Python source code"}},
                "required": ["code"],
                "additionalProperties": False,
            },
            repeatable=True,
            stateful=True,
        )

    @property
    def fingerprint(self) -> str:
        """Settings, the level in use, and the version of Python; not the packages that are installed.

        Raises:
            ConfigError: the level does not work on this machine.
        """
        limits = [self.timeout_s, self.cpu_s, self.memory_mb, self.processes, self.files_mb, self.output_chars]
        return content_hash(["python", RULE, active_level(self.level), platform.python_version(), *limits])

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """One interpreter, started at the first call.

        Raises:
            ConfigError: on entering; the level does not work on this machine.
        """
        return self._session()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ToolSession]:
        session = _Session(await asyncio.to_thread(active_level, self.level), self.limits)
        try:
            yield session
        finally:
            await session.end()


class _Session:
    """The interpreter of one attempt. Calls made at the same time wait for each other."""

    def __init__(self, level: str, limits: Limits) -> None:
        self._level, self._limits = level, limits
        self._interpreter: ProcessInterpreter | None = None
        self._turn = asyncio.Lock()

    async def call(self, arguments: Mapping[str, Any]) -> str:
        async with self._turn:
            current, self._interpreter = self._interpreter, None  # whatever cuts this call off loses it
            try:
                if current is None:
                    current = interpreter(self._level, self._limits)
                    await current.start()
                ran = await current.run(str(arguments["code"]))
            except NotStarted as error:
                raise ToolFailed(f"the code interpreter did not start: {error}") from error
            if not ran.lost:
                self._interpreter = current
                return ran.output or "(no output)"
            end = "" if not ran.output or ran.output.endswith("\n") else "\n"
            return (
                f"{ran.output}{end}[The interpreter was stopped: {ran.lost}. All variables are lost; the next call "
                "starts a fresh interpreter.]"
            )

    async def end(self) -> None:
        current, self._interpreter = self._interpreter, None
        if current is not None:
            await current.end()

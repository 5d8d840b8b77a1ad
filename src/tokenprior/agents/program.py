"""Program: any command as an agent, one run of it an attempt.

Order of events: a private folder and a seat at the gateway are made; the command is started in a session of its own,
with the address and the key of the seat in its environment; it is waited for, as long as it may take and as long as
nothing stops the run; what it started is ended; its output is read.

What is covered: keys in the environment stay here but for those in `pass_env`; every call of a model that goes to the
gateway is recorded, budgeted and conditioned. What is not: the program is the user's code, with all rights of the user
and the network. A call that it makes elsewhere is unseen, and so is a change of code that the command does not name.
How its processes are ended, and which cannot be found: see `agents.ending`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tokenprior.agents import ending
from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.seat import Seat
from tokenprior.errors import ConfigError
from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.redact import redact
from tokenprior.rollout import Failure, Message, Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.text import shorten

MOST_OUTPUT_BYTES = 1_000_000

_PLACE = re.compile(r"\{(question|task|input|output)\}")
_SECRET = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramAgent:
    """Runs a command for each attempt.

    In the words of the command `{question}` and `{task}` stand for the question and the task's id, `{input}` for a JSON
    file with `id`, `question`, `metadata` and `images` (not the answer), `{output}` for the file that the program
    writes its answer to. Without `{question}` and `{input}` the question is its standard input, without `{output}` its
    answer is what it prints; of either the last megabyte. The program finds the model by `OPENAI_BASE_URL` and
    `OPENAI_API_KEY`, as OpenAI's clients do, and a folder of its own, gone afterwards, in `TOKENPRIOR_DIR`.

    Attributes:
        command: the words; no shell reads them.
        gateway: open while attempts are made.
        folder: where the command runs.
        limits: of one attempt. `seconds` is wall-clock here, from start to end: what the program waits for cannot be
            seen.
        pass_env: environment variables that look like secrets and are passed on all the same. Those that lead to the
            gateway are not among them.
        concurrency: how many run at once.

    Raises:
        ConfigError: no command, or no such folder.
    """

    command: tuple[str, ...]
    gateway: Gateway
    folder: Path = Path()
    limits: AttemptLimits = field(default_factory=AttemptLimits)
    pass_env: tuple[str, ...] = ()
    concurrency: int = 16
    _files: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    _slots: asyncio.Semaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ConfigError("agent.command is empty: give the program and its arguments as a list")
        if not self.folder.is_dir():
            raise ConfigError(f"agent.folder {self.folder}: no such folder")
        if self.concurrency < 1:
            raise ConfigError(f"agent.concurrency is {self.concurrency}, expected at least 1")
        # Taken now: one run, one fingerprint, whatever is edited meanwhile.
        object.__setattr__(self, "_files", named_files(self.command, self.folder))
        object.__setattr__(self, "_slots", asyncio.Semaphore(self.concurrency))

    @property
    def fingerprint(self) -> str:
        """Covers the command, the files it names as they were when this was made, and what the gateway changes. What
        those files import is not covered."""
        limits = [self.limits.turns, self.limits.tokens, self.limits.usd]
        settings = [list(self.command), list(self._files), limits, list(self.pass_env)]
        return content_hash(["program", self.gateway.fingerprint, *settings])

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """See `Agent.attempt`.

        Raises:
            ConfigError: there is no such program.
            BudgetReached, ModelError, StoreError: what a call of the program met; the program was ended at once.
        """
        async with (
            self._slots,
            self.gateway.seat(task, prior, phase=phase, step=step, index=index, limits=self.limits) as seat,
        ):
            with tempfile.TemporaryDirectory(prefix="tokenprior-", ignore_cleanup_errors=True) as made:
                ran = await _Run(self, task, seat, Path(made)).ended()
            if seat.fatal is not None:
                raise seat.fatal
            return _rollout(task, index, seat, ran)


def named_files(command: Sequence[str], folder: Path) -> tuple[tuple[str, str], ...]:
    """The files that words of a command name, and hashes of their content. Not of an interpreter: it is another on
    every machine."""
    found = []
    for place, word in enumerate(command):
        for name in dict.fromkeys((word, word.partition("=")[2])):
            path = folder / name
            if not name or (place == 0 and Path(name).is_absolute()):
                continue
            with suppress(OSError, ValueError):
                if path.is_file():
                    found.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """How a run of the program went.

    Attributes:
        exit: its exit code, that of a signal as a shell gives it; `None` if it never ran or was ended.
        failure: why it brought nothing, if that is known already.
    """

    output: str | None = None
    exit: int | None = None
    seconds: float = 0.0
    last_line: str = ""
    failure: Failure | None = None


@dataclass(slots=True)
class _Run:
    """One run of the program."""

    agent: ProgramAgent
    task: Task
    seat: Seat
    made: Path
    printed: bytearray = field(default_factory=bytearray)
    complained: bytearray = field(default_factory=bytearray)

    async def ended(self) -> _Ran:
        """Run it, and end all that it started."""
        task, agent = self.task, self.agent
        names = {name for word in agent.command for name in _PLACE.findall(word)}
        values = {"question": task.question, "task": task.id}
        values |= {"input": str(self.made / "input.json"), "output": str(self.made / "output")}
        words = [_PLACE.sub(lambda match: values[match[1]], word) for word in agent.command]
        if "input" in names:
            told = {"id": task.id, "question": task.question, "metadata": dict(task.metadata)}
            (self.made / "input.json").write_text(json.dumps(told | {"images": list(task.images)}, default=str))
        asked = b"" if names & {"question", "input"} else task.question.encode("utf-8", "replace")
        async with ending.guarded(self._marker, str(self.made)) as guard:
            ran = await self._ran(words, asked, to_file="output" in names, guard=guard)
            guard.ended()
        return ran

    @property
    def _marker(self) -> str:
        """Stands in the environment of what the program starts, and in no other."""
        return f"TOKENPRIOR_DIR={self.made}"

    async def _ran(self, words: list[str], asked: bytes, *, to_file: bool, guard: ending.Guard) -> _Ran:
        agent, started = self.agent, time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                cwd=agent.folder,
                env=_environment(os.environ, agent.pass_env, self.seat, self.made),
                stdin=asyncio.subprocess.PIPE if asked else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise ConfigError(f"agent.command: {agent.command[0]!r} cannot be run: {error.strerror}") from error
        except (OSError, ValueError) as error:
            words_of_it = shorten(redact(f"cannot be started with this question: {error}; use {{input}}"), 300)
            return _Ran(failure=Failure(kind="agent", detail=words_of_it))
        guard.began(process.pid)
        in_time = await self._lived(process, asked)
        seconds = round(time.monotonic() - started, 3)
        if not in_time:
            failure = Failure(kind="timeout", detail=f"the program ran longer than {agent.limits.seconds:g} s")
            return _Ran(seconds=seconds, failure=failure)
        code = process.returncode
        lines = self.complained.decode("utf-8", "replace").strip().splitlines()
        last_line = lines[-1].replace(self.seat.api_key, "[redacted]") if lines else ""
        return _Ran(
            output=self._output(to_file=to_file),
            exit=128 - code if code is not None and code < 0 else code,
            seconds=seconds,
            last_line=shorten(redact(last_line), 300),
        )

    async def _lived(self, process: asyncio.subprocess.Process, asked: bytes) -> bool:
        """Wait for its end. False if it took too long."""
        pipes = [
            asyncio.ensure_future(_kept(process.stdout, self.printed)),
            asyncio.ensure_future(_kept(process.stderr, self.complained)),
        ]
        feeding = asyncio.ensure_future(_fed(process.stdin, asked))
        until = time.monotonic() + self.agent.limits.seconds
        try:
            # Not by `wait`: it waits for the pipes too, and a process that outlives the program may hold them open.
            while process.returncode is None and self.seat.fatal is None and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return process.returncode is not None or self.seat.fatal is not None
        finally:
            try:
                await ending.end(process.pid, self._marker)
                await asyncio.wait(pipes, timeout=ending.GRACE_S)
                while process.returncode is None:  # noqa: ASYNC110 (see above)
                    await asyncio.sleep(0.005)
            finally:
                for work in (*pipes, feeding):
                    work.cancel()
                await asyncio.gather(*pipes, feeding, return_exceptions=True)
                # The public ways of closing wait for whoever holds the other ends.
                process._transport.close()  # type: ignore[attr-defined]

    def _output(self, *, to_file: bool) -> str | None:
        if not to_file:
            return self.printed.decode("utf-8", "replace").strip()
        try:
            with (self.made / "output").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_OUTPUT_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except OSError:
            return None


async def _kept(pipe: asyncio.StreamReader | None, kept: bytearray) -> None:
    """Read a pipe to its end and keep the last of it."""
    assert pipe is not None
    while piece := await pipe.read(65536):
        kept += piece
        del kept[:-MOST_OUTPUT_BYTES]


async def _fed(pipe: asyncio.StreamWriter | None, text: bytes) -> None:
    if pipe is not None:
        with suppress(ConnectionError):  # it may not want to know
            pipe.write(text)
            await pipe.drain()
        pipe.close()


def _environment(outer: Mapping[str, str], passed: tuple[str, ...], seat: Seat, made: Path) -> dict[str, str]:
    """The environment without what looks secret, and with the way to the gateway."""
    inner = {
        name: value
        for name, value in outer.items()
        if name in passed or not (_SECRET.search(name) or redact(value) == "[redacted]")
    }
    direct = [inner.get("NO_PROXY") or inner.get("no_proxy") or "", "127.0.0.1", "localhost"]
    bypass = ",".join(part for part in direct if part)
    return inner | {
        "OPENAI_BASE_URL": seat.base_url,
        "OPENAI_API_BASE": seat.base_url,
        "OPENAI_API_KEY": seat.api_key,
        "TOKENPRIOR_DIR": str(made),
        "NO_PROXY": bypass,
        "no_proxy": bypass,
    }


def _rollout(task: Task, index: int, seat: Seat, ran: _Ran) -> Rollout:
    output, failure, stop = ran.output or "", ran.failure, StopReason.DONE
    if failure is None and seat.limit_reached:
        # What a program prints on its way down is no answer.
        output, stop = "" if ran.exit else output, StopReason.LIMIT
    elif failure is None and ran.exit:
        after = f" (a call of it had failed: {redact(str(seat.failure))})" if seat.failure else ""
        failure = Failure(kind=f"exit-{ran.exit}", detail=shorten((ran.last_line or "it said nothing") + after, 400))
    elif failure is None and ran.output is None:
        failure = Failure(kind="no-output", detail="the program ended well, but wrote no {output}")
    said = (
        Message(role="user", content=task.question, images=task.images),
        *([] if failure else [Message(role="assistant", content=output)]),
    )
    return Rollout(
        task_id=task.id,
        index=index,
        messages=seat.messages or said,
        output="" if failure else output,
        stop=StopReason.FAILED if failure else stop,
        failure=failure,
        usage=seat.usage,
        latency_s=seat.at_work_s,
        metadata={"turns": seat.turns, "seconds": ran.seconds, "exit": ran.exit, "exchanges": len(seat.exchanges)},
    )

"""Ray: attempts are made by actors on other machines, and come back as rollouts.

Order of events: at the first attempt Ray is connected and the actors are asked for; an attempt goes to an actor that
has room; what comes back is the rollout. Calls of the model and of the tools' ledger go from there to the driver
(`models.desk`), so that nothing is paid for twice whatever becomes of an actor.

What becomes of a lost one: another is made in its place as soon as there is room for it, and its attempts are made
again. Whoever was on lost actors twice has the next ones to itself, so that an attempt that ends its actor every time
takes no other with it for ever: it becomes a failure of the kind `worker`, and the run goes on. An actor that cannot be
spoken to counts as lost; if it lives, what it goes on asking is answered with what it asked for already.

Results come at least once, and are recorded once: the store keeps a rollout under what it was made of.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tokenprior.agents.base import Agent
from tokenprior.errors import ConfigError, MissingExtra, TokenpriorError
from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.redact import redact
from tokenprior.rollout import Failure, Message, Rollout, StopReason
from tokenprior.task import Task
from tokenprior.text import shorten

TOGETHER, ALONE = 2, 2  # lost actors that an attempt shared with others, and those that it had to itself
FALSE_STARTS = 5  # actors in a row, that are lost before they are ready
MOST_PAUSE_S = 60.0  # between actors of one place that are lost before they are ready
CLOSING_S = 5.0
NOT_SENT = (".?*", "__pycache__")

MakeActor = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RayAgent:
    """An agent whose attempts are made elsewhere.

    Attributes:
        agent: the one it stands for; it only lends its fingerprint here.
        actors: who make the attempts.
        made_of: what an actor makes the agent of, beside what all agents of the run have in common.
    """

    agent: Agent
    actors: Actors
    made_of: tuple[Any, ...] = ()

    @property
    def fingerprint(self) -> str:
        """That of the agent: where an attempt is made changes nothing that comes of it."""
        return self.agent.fingerprint

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """See `Agent.attempt`. The answer of the task stays here.

        Raises:
            TokenpriorError: what stops the run: as it was met there, or because there are no actors.
        """
        made_of = (*self.made_of, self.fingerprint)
        known = replace(task, answer=None)
        try:
            return await self.actors.attempt(made_of, known, prior, phase, step, index)
        except AttemptLost as lost:
            said = Message(role="user", content=task.question, images=task.images)
            return Rollout(
                task_id=task.id,
                index=index,
                messages=(said,),
                output="",
                stop=StopReason.FAILED,
                failure=Failure(kind="worker", detail=str(lost)),
            )


class AttemptLost(Exception):
    """An attempt that was lost with its actor, again and again."""


class ActorLost(Exception):
    """An actor that ended, or cannot be spoken to."""


@dataclass(eq=False, slots=True)
class _Worker:
    """An actor that is ready."""

    actor: Any
    free: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Actors:
    """The actors of a run. Use as an async context manager; nothing is started before the first attempt.

    Args:
        cluster: is connected before the actors and left after them; see `connected`.
        start: gives what makes an actor with the methods `ready`, `attempt` and `close` of a `Worker`, and how many of
            them there are to be. What it puts on the stack is closed before the actors.
        room: attempts that are on one actor at once.
        patience_s: how long a run waits while there is no actor at all.
    """

    def __init__(
        self,
        cluster: AbstractContextManager[Cluster],
        start: Callable[[Cluster, AsyncExitStack], Awaitable[tuple[MakeActor, int]]],
        *,
        room: int,
        patience_s: float,
    ) -> None:
        self._cluster, self._start, self._room, self._patience_s = cluster, start, room, patience_s
        self._starting, self._before, self._after = asyncio.Lock(), AsyncExitStack(), AsyncExitStack()
        self._keeping: list[asyncio.Task[None]] = []
        self._workers: dict[_Worker, None] = {}
        self._open: dict[_Worker, None] = {}  # those with room; who got an attempt last stands at the end
        self._kept: _Worker | None = None  # takes nothing more until it is empty
        self._waiting: deque[asyncio.Future[_Worker]] = deque()
        self._waiting_alone: deque[asyncio.Future[_Worker]] = deque()
        self._stopped: Exception | None = None
        self._false_starts = 0
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Actors:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._after:
            if self._alarm is not None:
                self._alarm.cancel()
            await self._before.aclose()
            for keeping in self._keeping:
                keeping.cancel()
            await asyncio.gather(*self._keeping, return_exceptions=True)

    async def attempt(self, *what: Any) -> Rollout:
        """What an actor's `attempt` gives.

        Raises:
            AttemptLost: its actors were, too often.
            TokenpriorError: as the actor met it, or because there are no actors.
        """
        async with self._starting:
            if not self._keeping and self._stopped is None:
                await self._begin()
        lost: list[str] = []
        while len(lost) < TOGETHER + ALONE:
            alone = len(lost) >= TOGETHER
            worker = await self._worker(alone=alone, again=bool(lost))
            try:
                return await _made(worker.actor, what)
            except ActorLost as gone:
                lost.append(str(gone))
                self._gone(worker)
            finally:
                self._left(worker, self._room if alone else 1)
        raise AttemptLost(f"lost with {len(lost)} workers, the last {ALONE} of which did nothing else: {lost[-1]}")

    async def _begin(self) -> None:
        try:
            make, count = await self._start(self._after.enter_context(self._cluster), self._before)
        except Exception as error:
            self._stop(error)  # or every attempt would try it again
            raise
        self._missing()
        self._keeping = [asyncio.ensure_future(self._keep(make)) for _ in range(count)]

    async def _keep(self, make: MakeActor) -> None:
        """Keep one actor there: make it, and make another when it is lost. One that cannot begin stops the run only if
        there is no other: of many nodes some are always out of order."""
        import ray

        pause_s = 1.0
        while True:
            actor, worker = make(), None
            try:
                if error := await _asked(actor.ready.remote()):
                    if not self._workers:
                        return self._stop(error)
                    raise ActorLost(str(error))
                self._false_starts, pause_s = 0, 1.0
                worker = _Worker(actor, self._room)
                self._came(worker)
                await worker.lost.wait()
            except ActorLost as gone:
                self._false_starts += 1
                if self._false_starts >= FALSE_STARTS and not self._workers:
                    words = f"workers: {FALSE_STARTS} in a row ended before they began: {gone}"
                    return self._stop(TokenpriorError(words))
                await asyncio.sleep(pause_s)
                pause_s = min(MOST_PAUSE_S, 2.0 * pause_s)
            except Exception as error:  # of nobody's purpose: it has to end the run, not this alone
                return self._stop(error)
            finally:
                # What runs on it holds tools and programs, and has to end in good order if it can.
                if worker is not None and not worker.lost.is_set():
                    with suppress(ActorLost, TimeoutError):
                        await asyncio.wait_for(_asked(actor.close.remote()), CLOSING_S)
                ray.kill(actor)

    async def _worker(self, *, alone: bool, again: bool) -> _Worker:
        """A worker with room for one attempt more, or with nothing else on it."""
        if self._stopped is not None:
            raise self._stopped
        found: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        waiting = self._waiting_alone if alone else self._waiting
        (waiting.appendleft if again else waiting.append)(found)
        self._admit()
        try:
            return await found
        except asyncio.CancelledError:
            if found.done() and not found.cancelled():
                self._left(found.result(), self._room if alone else 1)
            raise

    def _admit(self) -> None:
        while _first(self._waiting_alone) and (worker := self._empty()):
            worker.free -= self._room
            self._waiting_alone.popleft().set_result(worker)
        while _first(self._waiting) and self._open:
            worker = next(iter(self._open))
            del self._open[worker]
            worker.free -= 1
            if worker.free:
                self._open[worker] = None
            self._waiting.popleft().set_result(worker)

    def _empty(self) -> _Worker | None:
        """A worker with nothing on it. If there is none, one gets nothing more until it is."""
        if self._kept is None:
            self._kept = next(iter(self._open), None) or next(iter(self._workers), None)
        worker = self._kept
        if worker is None:
            return None
        self._open.pop(worker, None)
        if worker.free < self._room:
            return None
        self._kept = None
        return worker

    def _left(self, worker: _Worker, room: int) -> None:
        worker.free += room
        if worker in self._workers and worker is not self._kept:
            self._open[worker] = None
        self._admit()

    def _came(self, worker: _Worker) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._workers[worker] = self._open[worker] = None
        self._admit()

    def _gone(self, worker: _Worker) -> None:
        worker.lost.set()
        self._workers.pop(worker, None)
        self._open.pop(worker, None)
        if self._kept is worker:
            self._kept = None
        if not self._workers:
            self._missing()

    def _missing(self) -> None:
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._patience_s, self._nobody)

    def _nobody(self) -> None:
        words = f"workers: none was there for {self._patience_s:g} s: does the cluster have room for one?"
        self._stop(TokenpriorError(f"{words} The same command goes on"))

    def _stop(self, error: Exception) -> None:
        """Let nothing more begin; what is on its way may end."""
        self._stopped = self._stopped or error
        for found in (*self._waiting, *self._waiting_alone):
            if not found.done():
                found.set_exception(self._stopped)
        self._waiting.clear()
        self._waiting_alone.clear()


def _first(waiting: deque[asyncio.Future[_Worker]]) -> bool:
    """Whether anybody waits; whoever was cancelled does not."""
    while waiting and waiting[0].done():
        waiting.popleft()
    return bool(waiting)


async def _made(actor: Any, what: tuple[Any, ...]) -> Rollout:
    """What an actor makes of an attempt; an attempt that is cancelled here is cancelled there."""
    import ray

    asked = actor.attempt.remote(*what)
    try:
        made: Rollout | TokenpriorError = await _asked(asked)
    except asyncio.CancelledError:
        ray.cancel(asked)
        raise
    if isinstance(made, TokenpriorError):
        raise made
    return made


async def _asked(asked: Any) -> Any:
    """What a method of an actor gives. All ways in which an actor is lost are one."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return await asked
    except RayTaskError:
        raise  # it was raised by what runs there, and would have been here
    except RayError as error:
        lines = str(error).split("\n")  # what it died of stands in the first of many lines, or in the last
        words = " ".join(" ".join(dict.fromkeys((lines[0], lines[-1]))).split())
        raise ActorLost(shorten(redact(words), 400)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that is connected.

    Attributes:
        host: the address at which it finds this machine.
        cpus: how many it has.
    """

    host: str
    cpus: int

    def maker(self, kind: type, arguments: tuple[Any, ...], *, room: int) -> MakeActor:
        """What makes actors of a class, spread over the nodes, each with a CPU and room for as many calls at once."""
        import ray

        remote: Any = ray.remote
        # A lost actor is made anew by `Actors`, which knows what was on it; and two calls have to come through always.
        options = {"num_cpus": 1, "max_restarts": 0, "max_concurrency": room + 2, "scheduling_strategy": "SPREAD"}
        actor = remote(**options)(kind)
        return lambda: actor.remote(*arguments)


def require_ray() -> None:
    """
    Raises:
        MissingExtra: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtra("ray", "ray", "`workers` of kind ray")


@contextmanager
def connected(address: str, *, folder: Path | None = None, but: Sequence[str] = ()) -> Iterator[Cluster]:
    """Ray, for as long as it is needed; whoever connected before stays connected.

    Args:
        address: of a cluster that this machine is a node of, `auto` to look for it; or `local`, for one that begins and
            ends here.
        folder: is sent to the workers, without what begins with a dot.
        but: names of files that are not sent, as in a `.gitignore`.

    Raises:
        ConfigError: there is no such cluster, or it refuses.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ours = not ray.is_initialized()
    if ours:
        _require_answer(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        if folder:
            options["runtime_env"] = {"working_dir": str(folder), "excludes": [*NOT_SENT, *but]}
        if address == "local":
            options["include_dashboard"] = False
        try:
            ray.init(**options)
        except Exception as error:  # what it raises has no base in common
            words = shorten(redact(" ".join(str(error).split())), 300)
            if address not in ("auto", "local") and "RAY_AUTH_MODE" not in os.environ:
                words += " (a cluster with tokens wants RAY_AUTH_MODE=token in the environment; `auto` knows by itself)"
            raise ConfigError(
                f"workers.address {redact(address)!r}: no Ray cluster can be used there: {words}"
            ) from error
    elif folder:
        raise ConfigError(
            "workers.send_folder: this program is connected to Ray already, and it can be sent only before"
        )
    try:
        here, context = cast("Any", ray), cast("Any", ray.get_runtime_context)()
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in here.nodes()}
        yield Cluster(host=nodes[context.get_node_id()], cpus=int(here.cluster_resources().get("CPU", 0)))
    finally:
        if ours:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Where nobody listens, Ray itself would look for minutes, and hear no signal meanwhile."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except OSError as error:
        words = f"nobody answers: {error.strerror or error}"
        raise ConfigError(f"workers.address {redact(address)!r}: no Ray cluster can be used there: {words}") from error

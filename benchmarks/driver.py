"""Driver: what a plain call costs the process that learns, layer by layer, on the loopback address.

    python benchmarks/driver.py [--calls 4000] [--at-once 64] [--busy] [--words 100] [--profile FOLDER]

The endpoint is a process of its own, a bare asyncio protocol that takes 100 ms for a reply (none with `--busy`), so
that only our side is counted. Every layer is measured in a fresh process, after a few calls to warm up:

    endpoint    the request made, sent and its reply read (`ForwardModel`)
    chain       and replayed, retried, metered, with a ledger that keeps nothing
    store       and a store on disk: SQLite, WAL, synchronous=FULL, as every run has it
    rollout     and the agent, its reward, and the rollout kept: an attempt as in a run

Read:

    CPU ms      processor time of the process for a call, all its threads, user and system; the goal is 2 for `rollout`
    per core    calls a second that one core would carry: 1000 / CPU ms
    calls/s     what came through here, with an endpoint that shares the cores
    peak MB     of memory, the largest the process ever had; `begun` is what it had after warming up

Processor time holds on a machine that does other things beside it; times on the clock do not. With `--profile` each
thread of a layer leaves a profile in the folder (`python -m pstats FILE`), and takes about twice as long.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from proxy import upstream

from tokenprior.agents.chat import ChatAgent
from tokenprior.attempt import attempt
from tokenprior.endpoint_settings import EndpointSettings
from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections
from tokenprior.models.forward import ForwardModel
from tokenprior.models.retried import RetryPolicy
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.rollout import Message, Usage
from tokenprior.store import open_store
from tokenprior.task import Task
from tokenprior.verifiers.exact import Exact

LAYERS = ("endpoint", "chain", "store", "rollout")
GROUP = 8
WARM = 64


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is asked, how many calls at once, at which address; a question has so many words."""

    calls: int
    at_once: int
    address: str
    words: int
    profile: str | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    cpu_s: float
    took_s: float
    begun_mb: float
    peak_mb: float


class Forgetful:
    """A ledger that keeps nothing."""

    async def finished_call(self, model: str, request: Request) -> Reply | None:
        return None

    async def call_sent(self, model: str, request: Request, reserved: Usage) -> int:
        return 0

    async def call_done(self, call: int, reply: Reply) -> None:
        pass

    async def call_failed(self, call: int, kind: str, detail: str, charged: Usage) -> None:
        raise RuntimeError(f"a call failed: {kind}: {detail}")


LESSON = "When a question asks for a total, add the parts in the order in which they are named and check the sum."
PRIOR = TokenPrior.of(
    Library(experiences=tuple(Experience(id=f"G{number}", name="Add up", text=LESSON) for number in range(10)))
)


def question(number: int, words: int) -> str:
    return " ".join(f"number{(number * 7919 + place * 31) % 9973}" for place in range(words))


async def chat(model: ForwardModel, number: int, words: int) -> None:
    """A call as the plain agent makes it."""
    messages = (
        Message(role="system", content=PRIOR.conditioned("Do what is asked.")),
        Message(role="user", content=question(number, words)),
    )
    key = CallKey(phase="rollout", task=f"t{number // GROUP}", rollout=number % GROUP)
    await model.answer(Request(key=key, messages=messages, temperature=0.7, max_tokens=256, seed=number))


async def opened(layer: str, size: Size, folder: str, stack: AsyncExitStack) -> Callable[[int], Awaitable[None]]:
    """What makes one call of a layer, by its number."""
    if layer == "endpoint":
        bare = ForwardModel.at(size.address)
        stack.push_async_callback(bare.aclose)
        return lambda number: chat(bare, number, size.words)
    ledger = Forgetful()
    if layer != "chain":
        store = stack.enter_context(open_store(Path(folder) / "driver.db"))
        ledger = record = store.open_run("driver-1", name="driver", kind="learn", config={})  # type: ignore[assignment]
        stack.callback(record.close, "done")
    budget = Budget(Limits(tokens=10**12, minutes=600))
    settings = EndpointSettings(concurrency=size.at_once)
    connections = Connections(settings, ledger=ledger, budget=budget, prices={}, policy=RetryPolicy())
    model = await (await stack.enter_async_context(connections)).model(size.address)
    if layer != "rollout":
        return lambda number: chat(model, number, size.words)  # type: ignore[arg-type]  # any model will do
    agent = ChatAgent(model=model, instructions="Do what is asked.", max_tokens=256, seed=1)
    tracker = Tracker(record.note, lambda: budget.spent)

    async def group(number: int) -> None:
        if number % GROUP == 0:
            task = Task(id=f"t{number // GROUP}", question=question(number, size.words), answer="28.20")
            await attempt(
                task, [PRIOR] * GROUP, agent=agent, verifier=Exact(), shelf=record.shelf, on_rollout=tracker.rollout
            )

    return group


async def calls(call: Callable[[int], Awaitable[None]], numbers: range, at_once: int) -> None:
    """Make calls, so many side by side."""
    waiting = iter(numbers)

    async def worker() -> None:
        for number in waiting:
            await call(number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def run(layer: str, size: Size) -> Cost:
    with tempfile.TemporaryDirectory() as folder, profiled(layer, size.profile):
        async with AsyncExitStack() as stack:
            call = await opened(layer, size, folder, stack)
            await calls(call, range(WARM), size.at_once)
            begun, before, started = peak_mb(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            await calls(call, range(WARM, WARM + size.calls), size.at_once)
            took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu_s=cpu, took_s=took, begun_mb=begun, peak_mb=peak_mb())


def peak_mb() -> float:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


@contextmanager
def profiled(layer: str, folder: str | None) -> Iterator[None]:
    """Profile every thread that is started inside, and this one."""
    if folder is None:
        yield
        return
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].enable()

    threading.setprofile(begin)
    begin()
    try:
        yield
    finally:
        threading.setprofile(None)
        profiles[0].disable()
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number, profile in zip(itertools.count(), profiles, strict=False):
            profile.dump_stats(Path(folder) / f"{layer}-{number}.pstats")


def measured(layer: str, size: Size, pipe: Connection) -> None:
    pipe.send(asyncio.run(run(layer, size)))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a plain call costs the process that learns.")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--words", type=int, default=100, help="of a question")
    parser.add_argument("--busy", action="store_true", help="an endpoint that answers at once")
    parser.add_argument("--layer", action="append", choices=LAYERS, help="only this one; may be given again")
    parser.add_argument("--profile", help="a folder for profiles")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=upstream, args=(theirs,), daemon=True)
    server.start()
    address = f"http://127.0.0.1:{ours.recv()}{'' if options.busy else '/slow'}/v1#canned"
    size = Size(
        calls=options.calls, at_once=options.at_once, address=address, words=options.words, profile=options.profile
    )
    print(f"{'layer':<10}{'CPU ms':>8}{'per core':>10}{'calls/s':>9}{'begun MB':>10}{'peak MB':>9}")
    for layer in options.layer or LAYERS:
        child = context.Process(target=measured, args=(layer, size, theirs))
        child.start()
        cost: Cost = ours.recv()
        child.join()
        each_ms = 1000 * cost.cpu_s / size.calls
        print(
            f"{layer:<10}{each_ms:>8.2f}{1000 / each_ms:>10,.0f}{size.calls / cost.took_s:>9,.0f}"
            f"{cost.begun_mb:>10.0f}{cost.peak_mb:>9.0f}",
            flush=True,
        )
    server.terminate()


if __name__ == "__main__":
    main()

"""Far: what a rollout on another machine costs the driver, beside the call itself.

    python benchmarks/far.py [--calls 4000] [--at-once 64] [--workers 2] [--lines 1] [--words 100] [--skip-ray]

The model answers at once and nothing is kept, so that only the way is counted; what a call costs behind the desk is in
`benchmarks/driver.py`. Everything is on this machine, and so are the workers, which share its cores:

    here     attempts made by the driver itself: the agent alone
    desk     calls from processes of their own through the driver's desk, without Ray
    ray      attempts made by Ray actors, each with its call through the desk

Read:

    CPU ms       processor time of the driver for one, all its threads; 1000 / CPU ms is what one core would carry
    a second     what came through here
    bytes        that go to the driver and come from it for one, calls and rollouts, without frames and headers

A driver on N workers has `CPU ms` of `ray` and that of a call (`driver.py`, layer `store`) to pay for each attempt of
one call, and that of `desk` and of a call for each further turn.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import pickle
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal

from tokenprior.agents.base import Agent
from tokenprior.agents.chat import ChatAgent
from tokenprior.agents.ray import RayAgent
from tokenprior.config import Config
from tokenprior.live import actors, make_agent
from tokenprior.models import wire
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.models.desk import Desk
from tokenprior.models.remote import Line, RemoteModel
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Message, Usage
from tokenprior.task import Task
from tokenprior.tools.base import ToolResult

WARM = 64
PLACE: dict[str, Any] = {"phase": "rollout", "step": 0, "index": 0}


class Ready:
    """A model that answers at once."""

    name = "ready"

    def __init__(self, words: int) -> None:
        self.reply = Reply(text="word " * words, usage=Usage(calls=1, input_tokens=500, output_tokens=words))
        self.asked = asyncio.Event()

    async def answer(self, request: Request) -> Reply:
        self.asked.set()
        return self.reply


class Nothing:
    """A ledger of tools that keeps nothing."""

    async def tool_call_begun(
        self, place: str, made_of: str, tool: str, arguments: str
    ) -> ToolResult | Literal["doubt"] | None:
        return None

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        return None


def request_of(number: int, words: int) -> Request:
    messages = (Message(role="system", content="lesson " * 300), Message(role="user", content="word " * words))
    return Request(key=CallKey(phase="rollout", task=f"t{number}"), messages=messages, temperature=0.7, seed=number)


async def many(count: int, at_once: int, one: Callable[[int], Awaitable[object]]) -> None:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(lane() for _ in range(at_once)))


async def timed(count: int, at_once: int, one: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """Processor and clock time of so many, after a few to warm up."""
    await many(WARM, at_once, lambda number: one(-1 - number))
    cpu, clock = time.process_time(), time.perf_counter()
    await many(count, at_once, one)
    return time.process_time() - cpu, time.perf_counter() - clock


def ask(address: str, token: str, size: argparse.Namespace, place: int) -> None:
    """A process of its own that asks the desk."""

    async def run() -> None:
        lines = [Line(address, token) for _ in range(size.lines)]
        models = [RemoteModel(line, name="ready") for line in lines]
        share, first = size.calls // size.workers, place * size.calls
        at_once = max(1, size.at_once // size.workers)
        await many(share, at_once, lambda n: models[n % size.lines].answer(request_of(first + n, size.words)))
        for line in lines:
            await line.aclose()

    asyncio.run(run())


async def by_desk(size: argparse.Namespace) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    model = Ready(size.words)
    async with Desk(model, Nothing(), host="127.0.0.1") as desk:
        asking = [context.Process(target=ask, args=(desk.address, desk.token, size, n)) for n in range(size.workers)]
        for one in asking:
            one.start()
        await model.asked.wait()  # they import first
        cpu, clock = time.process_time(), time.perf_counter()
        for one in asking:
            await asyncio.to_thread(one.join)
        return time.process_time() - cpu, time.perf_counter() - clock


async def by_agent(size: argparse.Namespace, workers: dict[str, object] | None) -> tuple[float, float]:
    agent_settings = {"model": "ready", "instructions": "lesson " * 300, "max_tokens": size.words}
    config = Config.model_validate(
        {"tasks": {"path": "none"}, "agent": agent_settings, "verifier": "exact", "workers": workers}
    )
    model, ledger = Ready(size.words), Nothing()
    async with AsyncExitStack() as stack:
        agent: Agent = await make_agent(config, (), model=model, ledger=ledger, stack=stack, temperature=0.7, seed=0)
        assert isinstance(agent, ChatAgent)
        if workers:
            crew = await stack.enter_async_context(actors(config, model, ledger))
            agent = RayAgent(agent=agent, actors=crew, made_of=(0.7, 0))

        async def one(number: int) -> object:
            task = Task(id=f"t{number}", question="word " * size.words)
            return await agent.attempt(task, TokenPrior(), **PLACE)

        return await timed(size.calls, size.at_once, one)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a rollout on another machine costs the driver.")
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lines", type=int, default=1, help="connections of each process to the desk, without Ray")
    parser.add_argument("--words", type=int, default=100, help="of a question, and of a reply")
    parser.add_argument("--skip-ray", action="store_true")
    size = parser.parse_args()
    task, prior = Task(id="t1", question="word " * size.words), TokenPrior()
    rollout = asyncio.run(
        ChatAgent(model=Ready(size.words), instructions="lesson " * 300).attempt(task, prior, **PLACE)
    )
    asked = len(wire.dumps(wire.request_to_json(request_of(1, size.words))))
    told = len(wire.dumps(wire.reply_to_json(Ready(size.words).reply)))
    given, came = len(pickle.dumps((task, prior, PLACE))), len(pickle.dumps(rollout))
    ways = {"here": (0, 0), "desk": (asked, told), "ray": (asked + came, told + given)}
    print(
        f"{size.calls} calls, {size.at_once} at once, {size.workers} workers; prompts of 2.1 kB and {size.words} words"
    )
    print(f"\n{'':8}{'CPU ms':>8}{'a second':>10}{'per core':>10}{'bytes in':>10}{'bytes out':>11}")
    room = {"kind": "ray", "address": "local", "actors": size.workers, "attempts": size.at_once}
    rows: dict[str, Callable[[], Awaitable[tuple[float, float]]]] = {
        "here": lambda: by_agent(size, None),
        "desk": lambda: by_desk(size),
    }
    if not size.skip_ray:
        rows["ray"] = lambda: by_agent(size, room)
    for name, measure in rows.items():
        cpu, clock = asyncio.run(measure())  # type: ignore[arg-type]  # every one is a coroutine
        through = f"{ways[name][0]:>10,}{ways[name][1]:>11,}"
        per_ms = 1000 * cpu / size.calls
        print(f"{name:8}{per_ms:>8.3f}{size.calls / clock:>10,.0f}{1000 / per_ms:>10,.0f}{through}", flush=True)


if __name__ == "__main__":
    main()

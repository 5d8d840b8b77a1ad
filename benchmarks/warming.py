"""Warming: what it saves and costs that one of the calls that begin with the same long text goes first.

    python benchmarks/warming.py                                     (half a minute; the same on a busy machine)
    python benchmarks/warming.py --question 150 2000 --slots 32 64

The attempts of one step, 100 tasks x 5 by default, go through `WarmedModel` and `RetriedModel` as they are, but in
virtual time: nothing sleeps, and the clock jumps to the next event. Times of calls are those of `latency.py` (heavy
tails: 6 s on average, 66 s at most); a text is in the provider's cache from when a call with it was evaluated. "off"
lets all go as they come, "settled" is what ships, "ended" would wait for the whole reply of the first.

How to read it: "fresh" are prompt tokens that did not come from the cache, "x bound" is the makespan over what no order
could beat (all seconds over the slots, or the longest call), both means over the same draws for all three. The costs of
a wait are the differences between makespans.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import statistics
from collections.abc import Callable, Coroutine
from typing import Any

from latency import Profile

from tokenprior.models.base import CallKey, Model, Reply, Request
from tokenprior.models.retried import Limit, RetriedModel, RetryPolicy
from tokenprior.models.warmed import LEAST_TOKENS, SentModel, WarmedModel, Warmth, settle_s
from tokenprior.rollout import Message

WAYS: dict[str, Callable[[int], float] | None] = {"off": None, "settled": settle_s, "ended": lambda tokens: 1e9}


class Jumping(selectors.SelectSelector):
    """A selector that never waits: what it would have waited is added to the clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


class Virtual(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class Provider:
    """A model with a cache of all prefixes that end with a message and are long enough."""

    name = "provider"

    def __init__(self, profile: Profile, loop: Virtual) -> None:
        self._profile, self._loop = profile, loop
        self._from_s: dict[tuple[str, ...], float] = {}
        self.fresh = 0
        self.busy: list[float] = []

    async def answer(self, request: Request) -> Reply:
        now_s = self._loop.time()
        texts = [message.content for message in request.messages]
        prefixes = [tuple(texts[:end]) for end in range(1, len(texts) + 1)]
        sizes = [sum(map(len, prefix)) // 4 for prefix in prefixes]
        known = zip(prefixes, sizes, strict=True)
        cached = max(
            (size for prefix, size in known if size >= LEAST_TOKENS and self._from_s.get(prefix, now_s + 1) <= now_s),
            default=0,
        )
        fresh = sizes[-1] - cached
        took_s, output = self._profile.drawn("policy", fresh, f"{request.key.task}/{request.key.rollout}")
        evaluated_s = now_s + max(0.0, took_s - output / self._profile.output_tokens_per_s)
        for prefix in prefixes:
            self._from_s[prefix] = min(self._from_s.get(prefix, evaluated_s), evaluated_s)
        self.fresh += fresh
        self.busy.append(took_s)
        await asyncio.sleep(took_s)
        return Reply(text="")


def step(asked: argparse.Namespace, slots: int, question: int, way: str, seed: int) -> tuple[float, float, int]:
    """Makespan in seconds, that over its bound, and fresh tokens of one step."""
    loop = Virtual()
    provider = Provider(Profile(seed=seed), loop)
    settle = WAYS[way]
    warmth = Warmth(clock=loop.time, settle_s=settle or settle_s)
    sent: Model = SentModel(provider, warmth) if settle else provider
    limited = RetriedModel(sent, Limit(slots), RetryPolicy())
    model: Model = WarmedModel(limited, warmth) if settle else limited
    prior = Message(role="system", content="p" * 4 * asked.library)

    def call(task: int, index: int) -> Coroutine[Any, Any, Reply]:
        said = Message(role="user", content=f"{task:<{4 * question}}")
        return model.answer(
            Request(key=CallKey(phase="rollout", task=str(task), rollout=index), messages=(prior, said))
        )

    async def all_calls() -> float:
        await asyncio.gather(*(call(task, index) for task in range(asked.tasks) for index in range(asked.group_size)))
        return loop.time()

    try:
        makespan_s = loop.run_until_complete(all_calls())
    finally:
        loop.close()
    bound_s = max(sum(provider.busy) / slots, max(provider.busy))
    return makespan_s, makespan_s / bound_s, provider.fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--group-size", type=int, default=5)
    parser.add_argument("--library", type=int, default=2_000, help="tokens of the prior")
    parser.add_argument("--question", type=int, nargs="+", default=[150, 2_000], help="tokens of a question")
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--draws", type=int, default=20)
    asked = parser.parse_args()
    print(f"{asked.tasks} tasks x {asked.group_size}, a prior of {asked.library} tokens, means of {asked.draws} draws")
    print(f"{'slots':>5} {'question':>8} {'way':<8} {'makespan':>9} {'x bound':>8} {'fresh':>10}")
    for slots in asked.slots:
        for question in asked.question:
            for way in WAYS:
                runs = [step(asked, slots, question, way, seed) for seed in range(asked.draws)]
                makespan_s, over, fresh = (statistics.mean(figures) for figures in zip(*runs, strict=True))
                print(
                    f"{slots:>5} {question:>8} {way:<8} {makespan_s:>7.1f} s {over:>8.3f} {fresh:>10,.0f}", flush=True
                )


if __name__ == "__main__":
    main()

"""Live effect: how often its intervals hold the planted truth, and how wide they are beside betting.

    python benchmarks/live_effect.py --repetitions 400

Units draw lots, some are held out, each has a reward; one looks at ever more units, each time a fifth more, up to
5,000. "once": how often the interval of one look, at so many units, holds the truth; 0.95 is right. "ever missed": how
often the interval of every look left it out at some look up to there; at most 0.05 is right. The widths are half ones,
means over repetitions; "betting" is a confidence sequence for each arm at half the level and their difference
(`sequential.py`), for rewards known to lie in 0 to 1. "users" come back: each has a chance of its own and gives a few
rewards, more with every look; "requests as units" takes each reward of theirs for a unit, as one should not.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from statistics import fmean

from tokenprior.sequential import confidence_sequence
from tokenprior.statistics import Interval
from tokenprior.stratified import stratified_difference

MOST = 5_000
SHOWN = (100, 1_000, MOST)  # units
BETS = 40  # repetitions in which betting is tried, for it takes its time
Arms = dict[tuple[str, bool], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class World:
    """Chances of a reward of 1 with the prior and without, or rewards of another shape."""

    name: str
    share: float
    served: float = 0.0
    held_out: float = 0.0
    heavy: bool = False

    @property
    def truth(self) -> float:
        return self.served - self.held_out

    def reward(self, treated: bool, rng: random.Random) -> float:
        if self.heavy:
            return rng.lognormvariate(0, 1)
        return float(rng.random() < (self.served if treated else self.held_out))


WORLDS = [
    World(name="0.60 / 0.50", share=0.3, served=0.6, held_out=0.5),
    World(name="0.60 / 0.50", share=0.1, served=0.6, held_out=0.5),
    World(name="0.50 / 0.50", share=0.1, served=0.5, held_out=0.5),
    World(name="0.05 / 0.05", share=0.3, served=0.05, held_out=0.05),
    World(name="0.05 / 0.05", share=0.1, served=0.05, held_out=0.05),
    World(name="0.97 / 0.95", share=0.1, served=0.97, held_out=0.95),
    World(name="lognormal", share=0.3, heavy=True),
]


@dataclass
class Cell:
    """What was found at so many units."""

    once: list[bool] = field(default_factory=list)
    widths: dict[str, list[float]] = field(default_factory=lambda: {"once": [], "always": [], "betting": []})
    ever_missed: list[bool] = field(default_factory=list)


def holds(interval: Interval, truth: float) -> bool | None:
    if interval.low is None or interval.high is None:
        return None
    return interval.low <= truth <= interval.high


def half(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return (interval.high - interval.low) / 2


def looks() -> list[int]:
    made = [20]
    while made[-1] < MOST:
        made.append(min(MOST, 1 + made[-1] * 6 // 5))
    return sorted({*made, *SHOWN})


def world_lines(world: World, *, repetitions: int, seed: int) -> list[str]:
    rng = random.Random(f"{seed}/{world}")
    cells = {n: Cell() for n in SHOWN}
    for repetition in range(repetitions):
        arms: Arms = {("", True): {}, ("", False): {}}
        missed, done = False, 0
        for look in looks():
            for number in range(done, look):
                treated = rng.random() >= world.share
                arms["", treated][str(number)] = world.reward(treated, rng)
            done = look
            found = stratified_difference(arms)
            if found is None:
                continue
            missed = missed or holds(found.always, world.truth) is False
            if look in cells:
                cell, within = cells[look], holds(found.once, world.truth)
                cell.ever_missed.append(missed)
                if within is not None:
                    cell.once.append(within)
                    cell.widths["once"].append(half(found.once))
                    cell.widths["always"].append(half(found.always))
                if repetition < BETS and not world.heavy:
                    cell.widths["betting"].append(half(betting(arms)))
    return [line(f"{world.name:<12} {world.share:>5}", n, cell) for n, cell in cells.items()]


def betting(arms: Arms) -> Interval:
    served, held_out = (
        confidence_sequence(list(arms["", treated].values()), low=0.0, high=1.0, level=0.025)
        for treated in (True, False)
    )
    assert served.low is not None and served.high is not None  # noqa: PT018
    assert held_out.low is not None and held_out.high is not None  # noqa: PT018
    mean = served.mean - held_out.mean
    return Interval(mean=mean, low=served.low - held_out.high, high=served.high - held_out.low, n=0)


def users_lines(count: int, *, repetitions: int, seed: int) -> list[str]:
    """Users who come back on sixty days, some far oftener than others, with the prior and without alike."""
    rng = random.Random(f"{seed}/users/{count}")
    cell, naive = Cell(), []
    for _ in range(repetitions):
        treated = [rng.random() >= 0.3 for _ in range(count)]
        luck = [rng.random() for _ in range(count)]
        often = [min(0.8, 0.1 * rng.paretovariate(1.5)) for _ in range(count)]
        given: list[list[float]] = [[] for _ in range(count)]
        missed = False
        for _day in range(60):
            for user in range(count):
                if rng.random() < often[user]:
                    given[user].append(float(rng.random() < luck[user]))
            arms: Arms = {("", True): {}, ("", False): {}}
            for user, rewards in enumerate(given):
                if rewards:
                    arms["", treated[user]][str(user)] = fmean(rewards)
            found = stratified_difference(arms)
            missed = missed or (found is not None and holds(found.always, 0.0) is False)
        assert found is not None
        cell.ever_missed.append(missed)
        cell.once.append(bool(holds(found.once, 0.0)))
        cell.widths["once"].append(half(found.once))
        cell.widths["always"].append(half(found.always))
        each: Arms = {("", True): {}, ("", False): {}}
        for user, rewards in enumerate(given):
            each["", treated[user]] |= {f"{user}/{place}": reward for place, reward in enumerate(rewards)}
        single = stratified_difference(each)
        naive.append(single is not None and bool(holds(single.once, 0.0)))
    return [line(f"{'users':<12} {0.3:>5}", count, cell) + f"   requests as units: once {fmean(naive):.3f}"]


def line(what: str, n: int, cell: Cell) -> str:
    widths = [f"{fmean(values):>7.3f}" if values else f"{'-':>7}" for values in cell.widths.values()]
    once = f"{fmean(cell.once):>6.3f}" if cell.once else f"{'-':>6}"
    return f"{what} {n:>7} {once} {fmean(cell.ever_missed):>11.3f}  {' '.join(widths)}"


def call(job: Callable[[], list[str]]) -> list[str]:
    return job()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    given = {"repetitions": arguments.repetitions, "seed": arguments.seed}
    jobs: list[Callable[[], list[str]]] = [partial(world_lines, world, **given) for world in WORLDS]
    jobs += [partial(users_lines, count, **given) for count in (60, 300)]
    print(f"tokenprior {version('tokenprior')}, Python {platform.python_version()}, {arguments}")
    widths = " ".join(f"{name:>7}" for name in ("once", "always", "betting"))
    print(f"{'rewards':<12} {'share':>5} {'units':>7} {'once':>6} {'ever missed':>11}  {widths}")
    with ProcessPoolExecutor(2) as pool:
        for lines in pool.map(call, jobs):
            print("\n".join(lines), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

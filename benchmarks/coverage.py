"""Coverage: how often the 95% interval holds the truth, and how often the paired test cries wolf.

    python benchmarks/coverage.py --repetitions 1000 --resamples 1000

Tasks differ in difficulty (success probability from a Beta distribution with mean 1/3), attempts at one task share it.
Read "covered": 0.95 is right, and 1,000 repetitions leave it uncertain by 0.014 either way. "level" is the share of
p-values at or below 0.05 where nothing differs: it must not be above 0.05 by more than that noise.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from statistics import fmean

from tokenprior.statistics import bootstrap_mean, sign_flip

TASKS = (30, 50, 100, 200, 500)
ATTEMPTS = (1, 4, 32)
ALPHA, BETA = 0.5, 1.0
MEAN = ALPHA / (ALPHA + BETA)
# Half of the tasks gain this share of what they miss, the others nothing.
HELP = 0.4


def arm(chances: list[float], k: int, rng: random.Random) -> list[float]:
    """Mean@k of every task."""
    return [sum(rng.random() < chance for _ in range(k)) / k for chance in chances]


def paired(before: list[float], after: list[float]) -> list[float]:
    return [new - old for old, new in zip(before, after, strict=True)]


def cell(size: tuple[int, int], *, repetitions: int, resamples: int, seed: int) -> list[str]:
    """The two lines of one number of tasks and attempts."""
    tasks, k = size
    rng = random.Random(f"{seed}/{tasks}/{k}")
    found: dict[str, list[tuple[bool, float]]] = {"arm mean": [], "paired gain": []}
    rejected = 0
    for repetition in range(repetitions):
        chances = [rng.betavariate(ALPHA, BETA) for _ in range(tasks)]
        helped = [chance + (HELP * (1 - chance) if rng.random() < 0.5 else 0.0) for chance in chances]
        before = arm(chances, k, rng)
        gains = paired(before, arm(helped, k, rng))
        for kind, values, truth in (("arm mean", before, MEAN), ("paired gain", gains, HELP / 2 * (1 - MEAN))):
            interval = bootstrap_mean(values, resamples=resamples, seed=repetition)
            assert interval.low is not None
            assert interval.high is not None
            found[kind].append((interval.low <= truth <= interval.high, interval.high - interval.low))
        rejected += sign_flip(paired(before, arm(chances, k, rng)), seed=repetition) <= 0.05
    lines = []
    for kind, seen in found.items():
        level = f"{rejected / repetitions:.3f}" if kind == "paired gain" else "-"
        covered, width = fmean(covers for covers, _ in seen), fmean(wide for _, wide in seen)
        lines.append(f"{tasks:>5} {k:>3}  {kind:<11}  {covered:>7.3f}  {width:>6.3f}  {level:>5}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    sizes = [(tasks, k) for tasks in TASKS for k in ATTEMPTS]
    print(f"tokenprior {version('tokenprior')}, Python {platform.python_version()}, {arguments}")
    print(f"{'tasks':>5} {'k':>3}  {'kind':<11}  {'covered':>7}  {'width':>6}  {'level':>5}", flush=True)
    one = partial(cell, repetitions=arguments.repetitions, resamples=arguments.resamples, seed=arguments.seed)
    with ProcessPoolExecutor(2) as pool:
        for lines in pool.map(one, sizes):
            print("\n".join(lines), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

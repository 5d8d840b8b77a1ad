"""Adaptive groups: what each setting of `learn.adaptive` saves, and what becomes of the learning.

    python benchmarks/adaptive.py --seeds 100

The world is scripted, and `learn` is the real one. Tasks have pass rates as 56 of banking77 had with a 1.5B model (of
groups of four 20 were mixed and 23 all-fail: many rates lie near 0 and 1). Each is of one of eight kinds. For every
kind there is one useful lesson (log-odds +1.5 for tasks of the kind), one harmful one (-1) and three that do nothing. A
contrast of a mixed group finds the useful lesson with probability `--find`, of an all-fail group with `--all-fail`
times that; else it writes one of the others, the harmful one with a third of `--find`. With `--evidence` a mixed group
with but one success or but one failure finds it with half the probability: then attempts that are spared cost
something. There is no gate, and without `--pairs` all attempts see the whole library. The draws of an attempt depend on
seed, task, step and index alone, so settings differ in what they do.

How to read it: "after 3 epochs" are totals up to there: rollouts, tokens of all calls, mixed groups and their share,
useful and harmful lessons in the library; "gain" is the true gain in pass rate of that library over all tasks there
could be. "at equal rollouts" is the gain when as many rollouts were made as fixed G = 5 takes for 3 epochs (settings
that save some are in a later epoch then). "against fixed" is the paired difference to the first line, over seeds. All
intervals are 95%, over seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import platform
import random
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from endpoint import World

import tokenprior
from tokenprior.agents.chat import ChatAgent
from tokenprior.config import AdaptiveSettings, LearnConfig
from tokenprior.learn import learn
from tokenprior.library import Library, estimate_tokens
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.progress import Tracker
from tokenprior.rollout import Usage
from tokenprior.statistics import t_mean
from tokenprior.store import Store, open_store
from tokenprior.task import Task, TaskSet, content_hash
from tokenprior.verifiers import make_verifier

KINDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron")
USEFUL, HARMFUL = "weigh the first word", "trust the last word"
IDLE = ("picture the card", "read the question twice", "think of the neighbours")
LOG_ODDS = {USEFUL: 1.5, HARMFUL: -1.0}
BETA = (0.28, 0.40)  # of the pass rates: 0.36 mixed, 0.41 all-fail at G = 4
BATCH, COMPARED = 20, 3  # tasks a step; epochs of the totals

# G, the setting, and after how many epochs as many rollouts are made as fixed G = 5 makes in `COMPARED`.
SETTINGS: dict[str, tuple[int, AdaptiveSettings, int]] = {
    "fixed G = 5": (5, AdaptiveSettings(), 3),
    "fixed G = 3": (3, AdaptiveSettings(), 5),
    "first: 3": (5, AdaptiveSettings(first=3), 4),
    "first: 2": (5, AdaptiveSettings(first=2), 4),
    "most: 8": (5, AdaptiveSettings(most=8), 3),
    "rest_solved: 1": (5, AdaptiveSettings(rest_solved=1), 4),
    "rest_solved: 2": (5, AdaptiveSettings(rest_solved=2), 5),
    "rest_failed: 1": (5, AdaptiveSettings(rest_failed=1), 4),
    "first: 3, rest_solved: 2": (5, AdaptiveSettings(first=3, rest_solved=2), 6),
    "first: 3, most: 8, rest_solved: 2": (5, AdaptiveSettings(first=3, most=8, rest_solved=2), 6),
    "all: first 3, most 8, rests 2 and 1": (5, AdaptiveSettings(first=3, most=8, rest_solved=2, rest_failed=1), 7),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    setting: str
    seed: int
    tasks: int
    find: float
    all_fail: float
    evidence: bool
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Figures after each step, of what was done up to there."""

    rollouts: list[int]
    tokens: list[int]
    groups: list[int]
    mixed: list[int]
    useful: list[int]
    harmful: list[int]
    gain: list[float]
    steps_an_epoch: int

    def at(self, rollouts: int) -> float:
        """The gain when so many rollouts were made, between steps in proportion; at the end if they never were."""
        before, gain = 0, 0.0
        for made, now in zip(self.rollouts, self.gain, strict=True):
            if made >= rollouts:
                return gain + (now - gain) * (rollouts - before) / max(1, made - before)
            before, gain = made, now
        return gain


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int(content_hash(list(parts))[:8], 16) / 16**8


def shift_of(kind: str, lessons: str) -> float:
    """What some lessons add to the log-odds of tasks of a kind."""
    return sum(value for words, value in LOG_ODDS.items() if f"{kind} is named, {words}" in lessons)


def shifted(rate: float, shift: float) -> float:
    odds = rate / (1 - rate) * math.exp(shift)
    return odds / (1 + odds)


def drawn_rate(rng: random.Random) -> float:
    return min(max(rng.betavariate(*BETA), 1e-6), 1 - 1e-6)


POPULATION = [drawn_rate(random.Random(f"population/{n}")) for n in range(10_000)]


@cache
def gain_of(shift: float) -> float:
    return sum(shifted(rate, shift) - rate for rate in POPULATION) / len(POPULATION)


def true_gain(library: Library) -> float:
    """What a library adds to the pass rate of all tasks there could be."""
    lessons = "\n".join(experience.text for experience in library)
    return sum(gain_of(shift_of(kind, lessons)) for kind in KINDS) / len(KINDS)


class Scripted:
    """Policy and learning model in one; counts the tokens of each step."""

    def __init__(self, job: Job) -> None:
        rng = random.Random(f"tasks/{job.seed}")
        self.job = job
        self.rates = {f"item-{n}": drawn_rate(rng) for n in range(job.tasks)}
        self.kinds = {task: KINDS[n % len(KINDS)] for n, task in enumerate(self.rates)}
        self.tokens: dict[int, int] = defaultdict(int)
        self.editor = World()
        self._right: dict[tuple[int, str], list[bool]] = defaultdict(list)

    @property
    def tasks(self) -> TaskSet:
        return TaskSet(
            Task(id=task, question=f"Item {task[5:]} is {kind}. Yes or no?", answer="yes")
            for task, kind in self.kinds.items()
        )

    def __call__(self, request: Request) -> str:
        said = self._said(request)
        self.tokens[request.key.step] += estimate_tokens("".join(m.content for m in request.messages) + said)
        return said

    def _said(self, request: Request) -> str:
        key = request.key
        if key.phase == "revise":
            return self.editor.reply([{"role": m.role, "content": m.content} for m in request.messages])
        if key.phase == "contrast":
            return self._contrast(key.step, key.task)
        rate = shifted(self.rates[key.task], shift_of(self.kinds[key.task], request.messages[0].content))
        right = chance(self.job.seed, key.task, key.step, key.rollout) < rate
        self._right[key.step, key.task].append(right)
        return "yes" if right else "no"

    def _contrast(self, step: int, task: str) -> str:
        right = sum(self._right[step, task])
        fewer = min(right, len(self._right[step, task]) - right)
        share = {0: self.job.all_fail, 1: 0.5 if self.job.evidence else 1.0}.get(fewer, 1.0)
        rng = random.Random(f"contrast/{self.job.seed}/{task}/{step}")
        found = rng.random() < self.job.find * share
        words = USEFUL if found else HARMFUL if rng.random() < self.job.find / 3 else rng.choice(IDLE)
        lesson = f"When {self.kinds[task]} is named, {words}."
        return json.dumps({"difference": "some care", "lessons": [{"name": "Kind", "lesson": lesson}]})


async def run(job: Job, store: Store) -> Outcome:
    world = Scripted(job)
    model = ScriptedModel(world)
    size, adaptive, epochs = SETTINGS[job.setting]
    config = LearnConfig(
        gate="none",
        epochs=epochs,
        batch_size=BATCH,
        group_size=size,
        inclusion_pairs=job.pairs,
        adaptive=adaptive,
        seed=job.seed,
    )
    name = f"seed-{job.seed}"
    record = store.open_run(name, name=name, kind="learn", config={})
    try:
        result = await learn(
            world.tasks,
            agent=ChatAgent(model=model, max_tokens=50),
            verifier=make_verifier({"kind": "exact"}),
            model=model,
            record=record,
            config=config,
            tracker=Tracker(None, Usage),
        )
        ends = [await record.finished_step(step["step"]) for step in result.steps]
    finally:
        record.close("done")
    libraries = [end.library for end in ends if end is not None]
    texts = ["\n".join(e.text for e in library) for library in libraries]
    return Outcome(
        rollouts=list(accumulate(step["rollouts"] for step in result.steps)),
        tokens=list(accumulate(world.tokens[step["step"]] for step in result.steps)),
        groups=list(accumulate(sum(step["groups"].values()) for step in result.steps)),
        mixed=list(accumulate(step["groups"].get("mixed", 0) for step in result.steps)),
        useful=[len(re.findall(USEFUL, text)) for text in texts],
        harmful=[len(re.findall(HARMFUL, text)) for text in texts],
        gain=[true_gain(library) for library in libraries],
        steps_an_epoch=-(-job.tasks // BATCH),
    )


def some(jobs: list[Job]) -> list[Outcome]:
    """Several runs, in one store."""

    async def each(store: Store) -> list[Outcome]:
        return [await run(job, store) for job in jobs]

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "adaptive.db") as store:
        return asyncio.run(each(store))


def line(setting: str, made: list[Outcome], fixed: list[Outcome]) -> str:
    """A row of the table."""
    end = COMPARED * made[0].steps_an_epoch - 1
    equal = fixed[0].rollouts[end]

    def mean(figure: str) -> float:
        return float(sum(getattr(one, figure)[end] for one in made)) / len(made)

    after = [one.gain[end] for one in made]
    level = [one.at(equal) for one in made]
    more = [ours - theirs.at(equal) for ours, theirs in zip(level, fixed, strict=True)]
    cells = [
        setting,
        f"{mean('rollouts'):.0f}",
        f"{mean('tokens') / 1000:.0f}k",
        f"{mean('mixed'):.1f} ({mean('mixed') / mean('groups'):.0%})",
        f"{mean('rollouts') / mean('mixed'):.1f}",
        f"{mean('useful'):.2f} / {mean('harmful'):.2f}",
        in_words(after),
        in_words(level),
        "-" if made is fixed else in_words(more, sign="+"),
    ]
    return f"| {' | '.join(cells)} |"


def in_words(values: list[float], *, sign: str = "") -> str:
    found = t_mean(values)
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.4f}"
    return f"{found.mean:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--find", type=float, default=0.06)
    parser.add_argument(
        "--all-fail", type=float, default=0.2, help="how well an all-fail group teaches, to a mixed one"
    )
    parser.add_argument("--evidence", action="store_true", help="groups with one odd attempt teach half as well")
    parser.add_argument("--pairs", type=int, default=0, help="inclusion_pairs; 1 is the product's default")
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    print(f"tokenprior {tokenprior.__version__}, Python {platform.python_version()}, {vars(arguments)}")
    print(
        "| | rollouts | tokens | mixed groups | rollouts a mixed group | lessons useful / harmful |"
        " gain after 3 epochs | gain at equal rollouts | against fixed G = 5 |\n|---|---|---|---|---|---|---|---|---|"
    )
    fixed: list[Outcome] = []
    with multiprocessing.Pool(arguments.processes) as pool:
        for setting in dict.fromkeys([next(iter(SETTINGS)), *arguments.only]):
            jobs = [
                Job(
                    setting=setting,
                    seed=seed,
                    tasks=arguments.tasks,
                    find=arguments.find,
                    all_fail=arguments.all_fail,
                    evidence=arguments.evidence,
                    pairs=arguments.pairs,
                )
                for seed in range(arguments.seeds)
            ]
            parts = pool.map(some, [jobs[at : at + 10] for at in range(0, len(jobs), 10)], chunksize=1)
            made = [outcome for part in parts for outcome in part]
            fixed = fixed or made
            print(line(setting, made, fixed), flush=True)


if __name__ == "__main__":
    main()

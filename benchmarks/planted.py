"""Planted lessons: harmful, useless and useful ones in a library, and how many of them are told apart, at which cost.

    python benchmarks/planted.py --runs 100

The world is scripted: an attempt at a task is right with a rate of the task (0.2 to 0.8), plus the effects of the
planted lessons in its prompt. The library holds one lesson of -0.2, one of +0.2 and two of no effect. No new lesson is
ever learned, so what happens to the library is the work of the measured effects alone.

How to read it: for one epoch of learning ("epoch", by tasks, G and pairs of attempts that see parts of the library, and
`adaptive.first` where it is set) and for an audit ("audit", by rollouts): "dropped" is the share of runs that found the
lesson harmful, for each kind of lesson; "half-width" is that of the mean 95% interval, "covered" how often an interval
holds the true effect. "rollouts" are those of a group in full.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import platform
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import tokenprior
from tokenprior.agents.chat import ChatAgent
from tokenprior.audit import audit
from tokenprior.config import AdaptiveSettings, LearnConfig
from tokenprior.experience import Effect, Experience
from tokenprior.learn import learn
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.store import open_store
from tokenprior.task import Task, TaskSet
from tokenprior.verifiers import make_verifier

PLANTED = {"vinegar": -0.2, "honey": +0.2, "sand": 0.0, "water": 0.0}
LIBRARY = Library(
    experiences=tuple(
        Experience(id=f"G{n}", text=f"When an item is named, think of {word} before you answer.")
        for n, word in enumerate(PLANTED)
    )
)
TRUTH = dict(zip([e.id for e in LIBRARY], PLANTED.values(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    kind: str
    tasks: int
    group_size: int = 4
    pairs: int = 1
    first: int | None = field(default=None, repr=False)  # so that it shares its world with the plain one
    rollouts: int = 0


async def run(setting: Setting, seed: int) -> dict[str, Effect]:
    rng = random.Random(f"{setting}/{seed}")
    tasks = TaskSet(Task(id=f"item-{n}", question=f"Item {n}?", answer="yes") for n in range(setting.tasks))
    rates = {task.id: rng.uniform(0.2, 0.8) for task in tasks}

    def answer(request: Request) -> str:
        if request.key.phase not in ("rollout", "audit"):
            return "[]" if request.key.phase == "revise" else '{"difference": "none", "lessons": []}'
        effect = sum(value for word, value in PLANTED.items() if word in request.messages[0].content)
        return "yes" if rng.random() < rates[request.key.task] + effect else "no"

    agent = ChatAgent(model=ScriptedModel(answer), max_tokens=50)
    verifier = make_verifier({"kind": "exact"})
    config = LearnConfig(
        gate="none",
        epochs=1,
        group_size=setting.group_size,
        inclusion_pairs=setting.pairs,
        adaptive=AdaptiveSettings(first=setting.first),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "planted.db") as store:
        record = store.open_run("planted", name="planted", kind="learn", config={})
        try:
            if setting.kind == "audit":
                found = await audit(
                    tasks,
                    LIBRARY,
                    agent=agent,
                    verifier=verifier,
                    record=record,
                    config=config,
                    rollouts=setting.rollouts,
                )
                return {e.id: e.effect for e in found.library if e.effect}
            result = await learn(
                tasks,
                agent=agent,
                verifier=verifier,
                model=agent.model,
                record=record,
                config=config,
                start=LIBRARY,
            )
        finally:
            record.close("done")
    effects = {identity: Effect(**figures) for identity, figures in result.steps[-1]["effects"].items()}
    gone = {e.id for e in LIBRARY} - {e.id for e in result.library}
    assert gone == {identity for identity, effect in effects.items() if effect.hurts}
    return effects


def one(job: tuple[Setting, int]) -> dict[str, Effect]:
    return asyncio.run(run(*job))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    settings = [
        Setting(kind="epoch", tasks=50),
        Setting(kind="epoch", tasks=100),
        Setting(kind="epoch", tasks=100, pairs=2),
        Setting(kind="epoch", tasks=100, group_size=8, pairs=4),
        Setting(kind="epoch", tasks=100, group_size=5),
        Setting(kind="epoch", tasks=100, group_size=5, first=3),
        Setting(kind="audit", tasks=40, rollouts=160),
        Setting(kind="audit", tasks=40, rollouts=320),
        Setting(kind="audit", tasks=40, rollouts=640),
    ]
    print(f"tokenprior {tokenprior.__version__}, Python {platform.python_version()}, {arguments.runs} runs a line")
    print("| | tasks | G / pairs | rollouts | -0.2 dropped | +0.2 dropped | 0 dropped | half-width | covered |")
    print("|---|---|---|---|---|---|---|---|---|")
    with multiprocessing.Pool(arguments.processes) as pool:
        for setting in settings:
            made = pool.map(one, [(setting, seed) for seed in range(arguments.runs)], chunksize=1)
            found = [(TRUTH[i], effect) for effects in made for i, effect in effects.items()]
            dropped = [
                sum(effect.hurts for truth, effect in found if truth == value)
                / (arguments.runs * sum(truth == value for truth in TRUTH.values()))
                for value in (-0.2, 0.2, 0.0)
            ]
            width = sum(effect.high - effect.low for _, effect in found) / 2 / len(found)
            covered = sum(effect.low <= truth <= effect.high for truth, effect in found) / len(found)
            plan = f"{setting.group_size} / {setting.pairs}" if setting.kind == "epoch" else "-"
            plan += f", first {setting.first}" if setting.first else ""
            spent = setting.rollouts or setting.tasks * setting.group_size
            print(
                f"| {setting.kind} | {setting.tasks} | {plan} | {spent} | "
                + " | ".join(f"{share:.2f}" for share in dropped)
                + f" | {width:.3f} | {covered:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

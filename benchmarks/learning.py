"""Learning: what a config learns with several seeds, and what that is worth on held-out tasks.

    python benchmarks/learning.py examples/demo/demo.yaml --seeds 0 1 2 3 4

Prints one line a seed (the seed parts the tasks, orders them and seeds the sampling) with the lessons verbatim. Read
"gain": the paired difference to no prior on held-out tasks with its 95% interval over tasks. The intervals say nothing
of the spread between seeds; the lines do.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from tokenprior.config import Config, load_config
from tokenprior.session import session


def seeded(config: Config, seed: int, store: str) -> Config:
    """The config with another seed everywhere, in a store of its own."""
    split = config.tasks.split
    assert split is not None, "the benchmark needs tasks.split"
    return config.model_copy(
        update={
            "name": f"{config.name}-seed{seed}",
            "store": store,
            "tasks": config.tasks.model_copy(update={"split": split.model_copy(update={"seed": seed})}),
            "learn": config.learn.model_copy(update={"seed": seed}),
            "evaluate": config.evaluate.model_copy(update={"seed": seed}),
        }
    )


async def one(config: Config) -> None:
    async with session(config) as opened:
        began = time.monotonic()
        result = await opened.learn()
        learned_s = time.monotonic() - began
        made = await opened.compare({"learned": result.library})
        compared_s = time.monotonic() - began - learned_s
    before, after = made.arms
    means = " -> ".join("-" if step["mean"] is None else f"{step['mean']:.2f}" for step in result.steps)
    constant = f"{made.constant[1]:.3f}" if made.constant else "-"
    gain = made.differences[0]
    print(
        f"{config.name}: no prior {before.score}, learned {after.score}, gain {gain.gain}, "
        f"{gain.wins} better / {gain.losses} worse, best constant {constant}; "
        f"practice {means}; learn {learned_s:.0f} s, compare {compared_s:.0f} s",
        flush=True,
    )
    for experience in result.library:
        print(f"    [{experience.id}] {experience.line}   (from {experience.support} groups)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--store", default="benchmark-learning.db")
    arguments = parser.parse_args()
    for path in arguments.configs:
        for seed in arguments.seeds:
            asyncio.run(one(seeded(load_config(path), seed, arguments.store)))


if __name__ == "__main__":
    main()

"""Real tasks: what each gate ships with the embedded model, beside placebo, shuffled words, and tips without rollouts.

    python benchmarks/real.py examples/demo/demo.yaml benchmarks/real/banking77.yaml --seeds 0 1 2

For each config and seed (it parts the tasks, orders them and seeds the sampling) a library is learned under each gate
of `--gates`, and `plain`: the paper's loop on the same data (G = 5, three epochs of one batch, one contrast a group, no
gate, the whole library in every prompt; attempts shown as they are, not summarised). Then all libraries are compared
with no prior on the same held-out tasks.

How to read it: "gain" is the paired difference to no prior with its 95% interval over tasks, "p" is corrected for the
arms of that comparison. The intervals say nothing of the spread between seeds; the lines do. "calls" are those that
a gate's run made itself: what an earlier one had made is re-used and not counted again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from pathlib import Path
from typing import Any

from learning import seeded

import tokenprior
from tokenprior.config import Config, load_config
from tokenprior.library import Library
from tokenprior.session import session

PLAIN = {
    "preset": "paper",
    "compact": True,
    "groups_per_contrast": 1,
    "alike": False,
    "lessons_per_update": None,
    "batch_size": None,
}


def gated(config: Config, gate: str) -> Config:
    """The config under one gate, or as the paper learns."""
    if gate == "plain":
        kept = config.learn.model_dump(include={"learning_max_tokens", "library", "seed"})
        learn = type(config.learn).model_validate(kept | PLAIN)
    else:
        learn = config.learn.model_copy(update={"gate": gate})
    return config.model_copy(update={"learn": learn})


async def one(config: Config, gates: list[str], controls: list[str]) -> dict[str, Any]:
    arms: dict[str, Library] = {}
    learned: dict[str, Any] = {}
    for gate in gates:
        began = time.monotonic()
        async with session(gated(config, gate)) as opened:
            result = await opened.learn()
            calls = sum(row["state"] == "done" for row in opened.store.rows("calls", opened.learning_run))
        arms[gate] = result.library
        learned[gate] = {
            "lessons": [e.line for e in result.library],
            "waiting": len(result.learning),
            "calls": calls,
            "seconds": time.monotonic() - began,
            "practice": [step["mean"] for step in result.steps],
            "trials": [trial["sentence"] for step in result.steps for trial in step["trials"]],
            "deleted": [step["operations"].get("Delete", 0) for step in result.steps],
        }
        print(f"  {gate}: {learned[gate]}", flush=True)
    # Controls are made in the likeness of the first arm that has lessons.
    first = dict(sorted(arms.items(), key=lambda arm: len(arm[1]) == 0))
    async with session(config) as opened:
        made = await opened.compare(first, controls=controls if any(map(len, arms.values())) else [])  # type: ignore[arg-type]  # from the command line
    return {"config": config.name, "learned": learned, "comparison": made.to_json()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--gates", nargs="+", default=["none", "no-harm", "proven", "plain"])
    parser.add_argument("--controls", nargs="*", default=["placebo", "shuffled", "tips"])
    parser.add_argument("--store", default="benchmark-real.db")
    parser.add_argument("--json", type=Path, help="append each comparison as a line to this file")
    arguments = parser.parse_args()
    print(f"tokenprior {tokenprior.__version__}, Python {platform.python_version()}")
    for path in arguments.configs:
        for seed in arguments.seeds:
            made = asyncio.run(
                one(seeded(load_config(path), seed, arguments.store), arguments.gates, arguments.controls)
            )
            if arguments.json:
                with arguments.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(made) + "\n")
            comparison = made["comparison"]
            gains = {difference["arm"]: difference for difference in comparison["differences"]}
            print(f"{made['config']}, best constant answer {comparison['best_constant_answer']}")
            for arm in comparison["arms"]:
                score, against = arm["score"], gains.get(arm["arm"])
                gain = ""
                if against and against["gain"]:
                    of = against["gain"]
                    gain = f"gain {of['mean']:+.3f} [{of['low']:+.3f}, {of['high']:+.3f}] p {against['p_adjusted']}"
                print(f"    {arm['arm']:<10} {arm['experiences']:>2} lessons  {score['mean']:.3f}  {gain}", flush=True)


if __name__ == "__main__":
    main()

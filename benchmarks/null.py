"""Null task: how often a changed library ships though no prompt can matter, and how often a true rule does.

    python benchmarks/null.py --runs 200                                     (null task: effect 0)
    python benchmarks/null.py --runs 100 --effects 0.35 --base-rates 0.25    (real rule)

The world is scripted (`endpoint.World`): every attempt is right with a fixed probability, plus the effect if the prompt
holds the one rule that matters; half of the lessons drawn hold it. Everything else is the real thing: learning, gate,
store, comparison. Each run learns from 24 tasks (G = 5, 3 epochs of one batch) and is then compared with no prior on 60
held-out tasks, k = 2. Peers on the same world: `benchmarks/peers.py`.

How to read it: "shipped" is the share of runs that ship a changed library, with its Wilson 95% interval; on the null
task every one of them is an error, and `proven` promises at most 5%. "with the rule" is the share that ships the rule.
"reported" is the mean gain that `compare` reports for what shipped (0 where nothing did), "covered" how often its
interval holds the true gain. "calls" are all calls to the endpoint up to the shipped library, the gate's included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from endpoint import SEED_INSTRUCTION, World, has_rule, item

import tokenprior
from tokenprior.agents.chat import ChatAgent
from tokenprior.config import EvaluateConfig, LearnConfig
from tokenprior.evaluate import compare
from tokenprior.learn import learn
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.prior import TokenPrior
from tokenprior.prove import Gate
from tokenprior.store import open_store
from tokenprior.task import Task, TaskSet
from tokenprior.verifiers import make_verifier

PRACTICE, HELD_OUT = 24, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    base_rate: float
    effect: float
    gate: str
    gate_tasks: int
    gate_k: int
    gate_parts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    shipped: bool
    rule: bool
    reported: float
    covered: bool
    calls: int


def tasks(first: int, count: int) -> TaskSet:
    return TaskSet(Task(id=f"item-{n}", question=item(n)[0], answer=item(n)[1]) for n in range(first, first + count))


async def run(setting: Setting, seed: int) -> Outcome:
    world = World(setting.base_rate, setting.effect, seed=f"{setting}/{seed}")

    def answer(request: Request) -> str:
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        return world.reply(messages, key=str(request.key))

    agent = ChatAgent(model=ScriptedModel(answer), instructions=SEED_INSTRUCTION, max_tokens=50)
    verifier = make_verifier({"kind": "exact"})
    config = LearnConfig.model_validate(
        {"gate": setting.gate, "gate_k": setting.gate_k, "gate_parts": setting.gate_parts, "seed": seed}
    )
    gate = Gate(tasks=tasks(1_000, setting.gate_tasks), agent=agent)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "null.db") as store:
        record = store.open_run("null", name="null", kind="learn", config={})
        result = await learn(
            tasks(0, PRACTICE),
            agent=agent,
            verifier=verifier,
            model=agent.model,
            record=record,
            config=config,
            gate=gate,
        )
        calls = world.calls.total()
        made = await compare(
            tasks(2_000, HELD_OUT),
            {"no prior": Library(), "learned": result.library},
            agent=agent,
            verifier=verifier,
            record=record,
            config=EvaluateConfig(k=2, resamples=2_000, seed=seed),
        )
        record.close("done")
    gain = made.differences[0].gain
    text = TokenPrior.of(result.library).text
    truth = world.accuracy(text) - world.accuracy("")
    assert gain is not None
    assert gain.low is not None
    assert gain.high is not None
    return Outcome(
        shipped=len(result.library) > 0,
        rule=has_rule(text),
        reported=gain.mean,
        covered=gain.low <= truth <= gain.high,
        calls=calls,
    )


def one(job: tuple[Setting, int]) -> Outcome:
    return asyncio.run(run(*job))


def wilson(hits: int, n: int) -> str:
    """A share with its 95% interval. Source: Wilson, JASA 22 (1927)."""
    share, z = hits / n, 1.96
    middle = (share + z * z / 2 / n) / (1 + z * z / n)
    reach = z * (share * (1 - share) / n + z * z / 4 / n / n) ** 0.5 / (1 + z * z / n)
    return f"{share:.3f} [{max(0.0, middle - reach):.3f}, {min(1.0, middle + reach):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--base-rates", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--effects", type=float, nargs="+", default=[0.0])
    parser.add_argument("--gates", nargs="+", default=["none", "no-harm", "proven"])
    parser.add_argument("--gate-tasks", type=int, nargs="+", default=[40])
    parser.add_argument("--gate-k", type=int, default=2)
    parser.add_argument("--no-parts", action="store_true", help="gate_parts: false, for about the calls of the peers")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(f"tokenprior {tokenprior.__version__}, Python {platform.python_version()}, {arguments.runs} runs a line")
    print("| base | effect | gate | gate tasks | shipped | with the rule | reported | covered | calls |")
    print("|---|---|---|---|---|---|---|---|---|")
    with multiprocessing.Pool(arguments.processes) as pool:
        for base, effect, count, gate in itertools.product(
            arguments.base_rates, arguments.effects, arguments.gate_tasks, arguments.gates
        ):
            setting = Setting(
                base_rate=base,
                effect=effect,
                gate=gate,
                gate_tasks=count,
                gate_k=arguments.gate_k,
                gate_parts=not arguments.no_parts,
            )
            made = pool.map(one, [(setting, seed) for seed in range(arguments.runs)], chunksize=1)
            n = len(made)
            print(
                f"| {base} | {effect} | {gate} | {count} | {wilson(sum(o.shipped for o in made), n)} "
                f"| {wilson(sum(o.rule for o in made), n)} | {sum(o.reported for o in made) / n:+.3f} "
                f"| {sum(o.covered for o in made) / n:.3f} | {sum(o.calls for o in made) / n:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

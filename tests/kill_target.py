"""A learning run to be killed: `python tests/kill_target.py STORE URL OUT` learns in the small world, or goes on.

The library is written to the file OUT at the end, by default STORE.json. If its name begins with `gated` the run has a
gate, whose attempts are made at the temperature `COLD`, and inclusion pairs, and its report of every step is written
too; with `adaptive` in it, groups are adaptive.

`python tests/kill_target.py --fork` imports everything once and then
reads lines of `STORE URL`, each of which becomes a process of its own; it prints their ids, and how each one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import world
from tokenprior.endpoint_settings import EndpointSettings
from tokenprior.learn import learn
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections
from tokenprior.models.retried import RetryPolicy
from tokenprior.prove import Gate
from tokenprior.store import open_store

COLD = 0.25


async def run(store: str, url: str, out: Path | None = None) -> None:
    """Learn with summaries, so that all phases have their calls; or with a gate and pairs."""
    out = out or Path(store).with_suffix(".json")
    gated = out.name.startswith("gated")
    changes: dict[str, object] = (
        {"batch_size": None, "gate": "proven", "inclusion_pairs": 1, "gate_k": 1} if gated else {"compact": False}
    )
    if "adaptive" in out.name:
        adaptive = {"first": 3, "most": 7, "rest_solved": 1, "rest_failed": 1}
        changes |= {"group_size": 5, "epochs": 3, "adaptive": adaptive}
    every = world.tasks(20)
    with open_store(store) as opened:
        record = opened.open_run("r-1", name="r", kind="learn", config={})
        budget = Budget(Limits(), spent=record.spent())
        settings = EndpointSettings(concurrency=6)
        connections = Connections(settings, ledger=record, budget=budget, prices={}, policy=RetryPolicy())
        async with connections:
            model = await connections.model(f"{url}#fake")
            result = await learn(
                every[:8],
                agent=world.agent(model),
                verifier=world.SmallLetters(),
                model=model,
                record=record,
                config=world.config(**changes),
                gate=Gate(tasks=every[8:], agent=world.agent(model).at(COLD)),
            )
        record.close("done")
    told = [json.dumps(report) for report in result.steps] if gated else []
    out.write_text("\n".join([result.library.dumps(), *told]))


def fork() -> None:
    """Start-up is most of the time of a short run; processes made so have it behind them, and share nothing else."""
    from tokenprior.models.base import CallFailed, CallKey, Request
    from tokenprior.models.forward import ForwardModel
    from tokenprior.rollout import Message

    async def warm() -> None:
        """One call that nobody answers, for what is only made ready by a call."""
        model = ForwardModel.at("http://127.0.0.1:9/v1#nobody")
        with contextlib.suppress(CallFailed):
            await model.answer(Request(key=CallKey(phase="rollout"), messages=(Message(role="user", content="x"),)))
        await model.aclose()

    asyncio.run(warm())
    for line in sys.stdin:
        store, url = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(run(store, url))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)  # noqa: T201 (this is how it speaks)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "--fork":
        fork()
    else:
        asyncio.run(run(*sys.argv[1:3], *map(Path, sys.argv[3:])))

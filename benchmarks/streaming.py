"""Streaming: what one slow attempt costs a step.

    python benchmarks/streaming.py

A scripted endpoint answers every call after `--latency` seconds, and one rollout after 50 times that. Read "ratio": the
wall-clock of the whole step (rollouts, contrasts, library update) over the slow rollout's own time. 1.0 is the limit; a
loop with a barrier after each phase needs the slow rollout's time and then every later phase of every other group.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from tokenprior.agents.chat import ChatAgent
from tokenprior.config import LearnConfig
from tokenprior.endpoint_settings import EndpointSettings
from tokenprior.learn import learn
from tokenprior.models.base import Request
from tokenprior.models.budget import Budget, Limits
from tokenprior.models.connect import Connections
from tokenprior.models.retried import RetryPolicy
from tokenprior.models.scripted import ScriptedModel
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.store import open_store
from tokenprior.task import Task, TaskSet


class HalfRight:
    fingerprint = "half-right"

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        return Reward(value=float(rollout.index % 2))


async def step_s(tasks: int, group_size: int, concurrency: int, latency_s: float, slow_s: float) -> float:
    async def script(request: Request) -> str:
        key = request.key
        slow = key.phase == "rollout" and (key.task, key.rollout) == ("t0", 0)
        await asyncio.sleep(slow_s if slow else latency_s)
        if key.phase == "contrast":
            lesson = f"When the task is {key.task}, look at it twice."
            return json.dumps({"difference": "", "lessons": [{"name": "n", "lesson": lesson}]})
        return "[]" if key.phase == "revise" else "an answer"

    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "s.db") as store:
        record = store.open_run("b-1", name="b", kind="learn", config={})
        settings = EndpointSettings(concurrency=concurrency)
        connections = Connections(settings, ledger=record, budget=Budget(Limits()), prices={}, policy=RetryPolicy())
        async with connections:
            model = connections.wrap(ScriptedModel(script))
            began = time.monotonic()
            await learn(
                TaskSet(Task(id=f"t{i}", question=f"question {i}", answer="a") for i in range(tasks)),
                agent=ChatAgent(model=model),
                verifier=HalfRight(),
                model=model,
                record=record,
                config=LearnConfig(epochs=1, group_size=group_size),
            )
            took = time.monotonic() - began
        record.close("done")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds of an ordinary call")
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    arguments = parser.parse_args()
    sizes = (arguments.tasks, arguments.group_size, arguments.concurrency, arguments.latency)
    slow_s = 50 * arguments.latency
    print(
        f"{arguments.tasks} tasks x {arguments.group_size}, {arguments.concurrency} at once, "
        f"{arguments.latency} s a call"
    )
    for name, seconds in (("all alike", arguments.latency), ("one 50 times slower", slow_s)):
        took = asyncio.run(step_s(*sizes, seconds))
        print(f"{name:<22} step {took:6.2f} s   slowest rollout {seconds:5.2f} s   ratio {took / seconds:5.2f}")


if __name__ == "__main__":
    main()

"""Scale: a run of many rollouts, in how much memory, how soon it goes on after a kill, and what its store takes.

    python benchmarks/scale.py [--tasks 1250] [--group 8] [--batch 0] [--latency 0] [--url http://127.0.0.1:8399/v1]
    python benchmarks/scale.py --tasks 10000                     (80,000 rollouts: some minutes)
    python benchmarks/scale.py store [--rollouts 1000 10000 100000]
    python benchmarks/scale.py start

The run is one epoch of learning in a process of its own, through the chain of every run (replayed, retried, metered, a
store on disk) with 64 calls allowed. Its model is in the process and answers at once, or after `--latency` seconds on
average with a heavy tail; with `--url` it is an endpoint, such as `python benchmarks/endpoint.py --port 8399`. One
group in fifty teaches a lesson. Then the same run is made in another store, killed at 80% of its rollouts with SIGKILL,
and started again. Read:

    rollouts/s, CPU ms    of the whole step over its rollouts: with their contrasts, rewards, ledger and store; the
                          processor time is of all threads
    peak MB               the most memory that the process ever had: when it begins to learn, at a tenth, at the half
                          and at the end of its rollouts. Flat if the last three are alike
    store MB              of the file at the end
    resume                seconds from the start of the process, and from the call of `learn`, until a call leaves that
                          was not made before; and until the step is done, with all that was made read again

`store` fills a store with rollouts of 100 words and a reward, 64 at a time, and times: a rollout saved; how many of
each task there are; the index of a step; one of 64 groups looked up side by side; and the readings of the list of runs,
of groups, of a run's sums and of its report. `start` is the time to import the package and to print its help, the best
of five.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

WORDS = "amber birch cedar delta ember fjord grove heron inlet jetty kelp larch maple north ocean pearl".split()  # noqa: SIM905
INSTRUCTIONS = "Answer the question with one word. " + " ".join(WORDS * 12)
CONCURRENCY = 64
KILL_AT = 0.8


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def chance(*parts: object) -> float:
    from tokenprior.task import content_hash

    return int(content_hash(list(parts))[:8], 16) / 16**8


class Scripted:
    """Policy and learning model in one: a function of the request, which it does not keep."""

    name = "scripted"

    def __init__(self, latency_s: float, on_call: Callable[[], None]) -> None:
        self._latency_s, self._on_call = latency_s, on_call

    async def answer(self, request: Any) -> Any:
        from tokenprior.models.base import Reply
        from tokenprior.rollout import Usage

        self._on_call()
        key = request.key
        if self._latency_s:
            # Lognormal: the median below the mean, one call in a hundred five times as long.
            drawn = random.Random(str(key)).gauss(-0.5 * 0.8**2, 0.8)
            await asyncio.sleep(self._latency_s * math.exp(drawn))
        if key.phase == "contrast":
            lesson = {"name": "Case", "lesson": f"When the word is {key.task}, look at its case."}
            text = json.dumps({"difference": "case", "lessons": [lesson] if chance(key.task) < 0.02 else []})
        elif key.phase == "revise":
            text = "[]"
        else:
            right = chance(key.task, key.rollout, key.step) < 0.5
            text = ("yes " if right else "no ") + " ".join(WORDS)
        return Reply(text=text, usage=Usage(calls=1, input_tokens=300, output_tokens=30))


class Says:
    """Half of the attempts are right."""

    fingerprint = "says-1"

    async def verify(self, task: Any, rollout: Any) -> Any:
        from tokenprior.reward import Reward

        return Reward(value=float(rollout.output.startswith("yes")), extracted=rollout.output[:3], feedback="yes or no")


async def learn_here(arguments: argparse.Namespace) -> None:
    """The run, in this process; says on its output what happens when."""
    from tokenprior.agents.chat import ChatAgent
    from tokenprior.config import LearnConfig
    from tokenprior.endpoint_settings import EndpointSettings
    from tokenprior.learn import learn
    from tokenprior.load import load_tasks
    from tokenprior.models.budget import Budget, Limits
    from tokenprior.models.connect import Connections
    from tokenprior.models.retried import RetryPolicy
    from tokenprior.progress import Progress, Tracker
    from tokenprior.store import open_store

    def tell(what: str, **values: Any) -> None:
        print(json.dumps({"what": what, "at": time.time(), "peak": peak_mb(), "cpu": cpu_s(), **values}), flush=True)

    tasks = load_tasks(arguments.child / "tasks.jsonl").split(practice=arguments.tasks).practice
    assert tasks.fingerprint, "as the id of a run has it"
    every = arguments.tasks * arguments.group
    marks = [("tenth", every // 10), ("half", every // 2), ("kill", int(every * KILL_AT))]
    called = False

    def on_call() -> None:
        nonlocal called
        if not called:
            called = True
            tell("called")

    def on_progress(progress: Progress) -> None:
        while marks and progress.phase == "rollouts" and progress.done >= marks[0][1]:
            tell(marks.pop(0)[0])

    async with AsyncExitStack() as stack:
        store = stack.enter_context(open_store(arguments.child / f"{arguments.store}.db"))
        record = store.open_run("scale-1", name="scale", kind="learn", config={})
        budget = Budget(Limits(), spent=record.spent())
        settings = EndpointSettings(concurrency=CONCURRENCY)
        connections = Connections(settings, ledger=record, budget=budget, prices={}, policy=RetryPolicy())
        await stack.enter_async_context(connections)
        if arguments.url:
            model = await connections.model(f"{arguments.url}#scripted")
        else:
            model = connections.wrap(Scripted(arguments.latency, on_call))
        tell("learn")
        await learn(
            tasks,
            agent=ChatAgent(model=model, instructions=INSTRUCTIONS, max_tokens=64, seed=1),
            verifier=Says(),
            model=model,
            record=record,
            config=LearnConfig(
                epochs=1,
                batch_size=arguments.batch or None,
                group_size=arguments.group,
                gate="none",
                inclusion_pairs=0,
                learn_from=("mixed",),
            ),
            tracker=Tracker(on_progress, lambda: budget.spent),
        )
        record.close("done")
        tell("end", calls=budget.spent.calls)


def run(arguments: argparse.Namespace, folder: Path, store: str, *, kill: bool = False) -> Mapping[str, Any]:
    """The run in a process of its own; with `kill` ended by SIGKILL on its way."""
    command = [sys.executable, __file__, "--child", str(folder), "--store", store]
    for name in ("tasks", "group", "batch", "latency", "url"):
        command += [f"--{name}", str(getattr(arguments, name))]
    began = time.time()
    seen: dict[str, Any] = {"began": began}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            said = json.loads(line)
            seen[said["what"]] = said
            if kill and said["what"] == "kill":
                child.send_signal(signal.SIGKILL)
    if child.returncode != (-signal.SIGKILL if kill else 0):
        raise SystemExit(f"the run ended with {child.returncode}")
    return seen


def whole_run(arguments: argparse.Namespace) -> None:
    rollouts = arguments.tasks * arguments.group
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "tasks.jsonl").open("w") as file:
            for number in range(arguments.tasks):
                word = WORDS[number % len(WORDS)]
                question = f"Is {word} number {number} right? " + " ".join(random.Random(number).choices(WORDS, k=40))
                file.write(json.dumps({"id": f"t{number}", "question": question, "answer": f"{word} {number}"}) + "\n")
        print(f"{rollouts:,} rollouts ({arguments.tasks:,} tasks x {arguments.group}), {CONCURRENCY} calls allowed\n")
        seen = run(arguments, folder, "whole")
        took = seen["end"]["at"] - seen["learn"]["at"]
        used = seen["end"]["cpu"] - seen["learn"]["cpu"]
        size = sum(path.stat().st_size for path in folder.glob("whole.db*")) / 1e6
        peaks = " ".join(f"{seen[mark]['peak']:6.0f}" for mark in ("learn", "tenth", "half", "end"))
        heads = f"{'makespan s':>11} {'rollouts/s':>11} {'CPU ms':>7}"
        print(f"{heads} {'peak MB: start, 1/10, 1/2, end':>31} {'store MB':>9}")
        print(f"{took:11.1f} {rollouts / took:11.0f} {1e3 * used / rollouts:7.2f} {peaks:>31} {size:9.0f}")
        run(arguments, folder, "killed", kill=True)
        seen = run(arguments, folder, "killed")
        print(f"\nkilled at {KILL_AT:.0%}, and started again: seconds to the first new call")
        print(f"{'from process':>13} {'from learn':>11} {'all':>7} {'peak MB':>8}")
        first = seen.get("called", seen["end"])["at"]
        print(
            f"{first - seen['began']:13.2f} {first - seen['learn']['at']:11.2f} "
            f"{seen['end']['at'] - seen['learn']['at']:7.1f} {seen['end']['peak']:8.0f}"
        )


async def fill(folder: Path, rollouts: int, group: int) -> float:
    """A store with so many rollouts in one step; the seconds that they took."""
    from tokenprior.flow import in_turn
    from tokenprior.reward import Reward
    from tokenprior.rollout import Message, Rollout
    from tokenprior.store import open_store
    from tokenprior.task import content_hash

    text = " ".join(WORDS * 6)
    with open_store(folder / "s.db") as store:
        record = store.open_run("scale-1", name="scale", kind="learn", config={})

        async def save(number: int) -> None:
            task, index = f"t{number // group}", number % group
            messages = (Message(role="user", content=text), Message(role="assistant", content=text))
            rollout = Rollout(task_id=task, index=index, messages=messages, output=text)
            reward = Reward(value=float(chance(number) < 0.5), extracted="yes", feedback="yes or no")
            await record.shelf.save("rollout", 0, content_hash(task), rollout, "v", reward)

        began = time.monotonic()
        await in_turn(save, range(rollouts), at_once=CONCURRENCY)
        took = time.monotonic() - began
        record.close("done")
    return took


async def looked_up(folder: Path, group: int) -> tuple[float, float, float]:
    """Seconds for the count of what there is by task, for the index of a step, and for a group."""
    from tokenprior.store import open_store
    from tokenprior.task import content_hash

    with open_store(folder / "s.db") as store:
        record = store.open_run("scale-1", name="scale", kind="learn", config={})
        began = time.monotonic()
        there = await record.shelf.judged("rollout", 0)
        counted = time.monotonic()
        await record.shelf.find("rollout", 0, "none", {0: "none"})
        indexed = time.monotonic()
        some = list(there)[:64]
        await asyncio.gather(
            *(record.shelf.find("rollout", 0, task, dict.fromkeys(range(group), content_hash(task))) for task in some)
        )
        found = time.monotonic()
        record.close("done")
    return counted - began, indexed - counted, (found - indexed) / len(some)


def store_times(arguments: argparse.Namespace) -> None:
    from tokenprior.store import attempts, look, open_store
    from tokenprior.store.report import report_of

    group = arguments.group
    names = ("saved ms", "store MB", "count s", "index s", "group ms", "runs ms", "groups ms", "totals ms", "report ms")
    print(f"{'rollouts':>9} " + " ".join(f"{name:>9}" for name in names))
    for rollouts in arguments.rollouts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            took = asyncio.run(fill(folder, rollouts, group))
            size = sum(path.stat().st_size for path in folder.glob("s.db*")) / 1e6
            counted, indexed, found = asyncio.run(looked_up(folder, group))
            with open_store(folder / "s.db") as store:
                of_run = store.find_run("scale")
                read = [
                    timed(partial(look.runs, store, limit=50)),
                    timed(partial(attempts.groups, store, of_run.id, limit=50)),
                    timed(partial(look.totals, store, of_run.id)),
                    timed(partial(report_of, store, of_run, plan=None, gated=False)),
                ]
            figures = [1e3 * took / rollouts, size, counted, indexed, 1e3 * found, *(1e3 * seconds for seconds in read)]
            print(f"{rollouts:9,} " + " ".join(f"{figure:9.2f}" for figure in figures))


def timed(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def start_times() -> None:
    for shown, command in (
        ("import tokenprior", ["-c", "import tokenprior"]),
        ("tokenprior --help", ["-m", "tokenprior", "--help"]),
    ):
        started = partial(subprocess.run, [sys.executable, *command], check=True, capture_output=True)
        made = [timed(started) for _ in range(5)]
        print(f"{shown:20} {1e3 * min(made):6.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["run", "store", "start"], default="run")
    parser.add_argument("--tasks", type=int, default=1250)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--batch", type=int, default=0, help="tasks of a step; 0 is all of them")
    parser.add_argument("--latency", type=float, default=0.0, help="mean seconds of a call")
    parser.add_argument("--url", default="", help="an endpoint in place of the model in the process")
    parser.add_argument("--rollouts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        asyncio.run(learn_here(arguments))
    elif arguments.what == "store":
        store_times(arguments)
    elif arguments.what == "start":
        start_times()
    else:
        whole_run(arguments)


if __name__ == "__main__":
    main()

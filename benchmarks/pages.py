"""Pages: how long each page of `tokenprior ui` takes on a large store, and what the server's memory does.

    python benchmarks/pages.py --rollouts 100000

Makes a store (rows are inserted, no run is made), serves it as `tokenprior ui` does, opens every page a few times and
prints seconds (of the first time, and the slowest after it), bytes and the server's resident memory. The goal is under
a second a page, and memory that does not grow with the store.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tokenprior.advantage import Advantage, Lesson
from tokenprior.arm import Design, report_arm
from tokenprior.comparison import Comparison, differ
from tokenprior.effects import Observation
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import CallKey, Reply, Request
from tokenprior.operation import Add, Delete, to_json
from tokenprior.prior import TokenPrior
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.statistics import Interval
from tokenprior.store import open_store
from tokenprior.store.codec import (
    advantage_to_json,
    dumps,
    figures_of,
    observation_to_json,
    reply_to_json,
    reward_to_json,
    rollout_to_json,
)
from tokenprior.store.schema import metadata
from tokenprior.task import Task, content_hash
from tokenprior.trial import Trial

NAME, RUN, COMPARED = "large", "large-00000001", "large-compare-00000001"
MODEL = "https://models.invalid/v1#large"
G, K, TASKS, GATE_TASKS, LESSONS = 8, 4, 100, 60, 30
ARMS = ("no prior", "learned", "placebo", "shuffled")
BEGAN = 1_790_000_000.0
INSTRUCTIONS = "Solve the problem step by step. Put the final answer in \\boxed{}."
PROSE = (
    "First we write down what is given and what is asked. The two quantities are related by a linear equation, so it "
    "is enough to find one of them. Substituting the first into the second and collecting terms gives a single "
    "unknown. We check the result against the condition in the problem and find that it holds. "
)


def library_at(step: int, rng: random.Random) -> Library:
    """A library that grows to its full size in the first steps."""
    made = []
    for number in range(min(LESSONS, 4 + 3 * step)):
        mean = rng.gauss(0.02, 0.05)
        made.append(
            Experience(
                id=f"G{number}",
                name=f"Check the unit {number}",
                text=f"When a problem of kind {number} asks for a rate, write the unit beside every number first.",
                provenance=Provenance(
                    run=RUN,
                    step=min(step, number // 3),
                    reason="several groups say so",
                    groups=tuple(f"task-{(number * 7 + i) % TASKS}" for i in range(12)),
                    rollouts=tuple(f"task-{(number * 7 + i) % TASKS}#{j}" for i in range(12) for j in range(2)),
                ),
                effect=Effect(mean=mean, low=mean - 0.06, high=mean + 0.06, shrunk=mean / 2, tasks=90, rollouts=400),
            )
        )
    return Library(experiences=tuple(made))


def rollout(task: str, index: int, prior: TokenPrior, rng: random.Random) -> tuple[Rollout, Reward]:
    """One attempt of about 2 kB with its reward; one in 50 failed, one in 50 is unscored."""
    answer = str(rng.randrange(1000))
    text = PROSE * rng.randrange(1, 4) + f"\\boxed{{{answer}}}"
    made = Rollout(
        task_id=task,
        index=index,
        messages=(
            Message(role="system", content=prior.conditioned(INSTRUCTIONS)),
            Message(role="user", content=f"Problem {task}: a tram covers {answer} km in {index + 2} hours. How fast?"),
            Message(role="assistant", content=text),
        ),
        output=text,
        usage=Usage(calls=1, input_tokens=600, output_tokens=len(text) // 4, cached_tokens=500, cost_usd=0.0004),
        latency_s=round(rng.uniform(0.5, 9), 3),
        included=prior.included,
    )
    draw = rng.random()
    if draw < 0.02:
        failure = Failure(kind=rng.choice(["timeout", "http-400", "connection"]), detail="the endpoint went away")
        failed = replace(made, output="", stop=StopReason.FAILED, failure=failure, messages=made.messages[:2])
        return failed, Reward.unscored(f"the attempt failed: {failure.kind}")
    if draw < 0.04:
        return made, Reward.unscored("no answer could be read")
    return made, Reward(value=float(rng.random() < 0.5), extracted=answer, feedback="" if draw < 0.5 else "wanted 7")


def attempts(
    count: int, libraries: list[Library], rng: random.Random
) -> Iterator[tuple[str, int, int, Rollout, Reward]]:
    """Practice attempts, and half as many at the gate: phase, step, step of the library, and the attempt."""
    steps = len(libraries)
    for step, library in enumerate(libraries):
        prior = TokenPrior.of(library)
        of_step = count // steps + (step < count % steps)
        for number in range(of_step):
            phase, tasks = ("rollout", TASKS) if number < of_step * 2 // 3 else ("gate", GATE_TASKS)
            place = number if phase == "rollout" else number - of_step * 2 // 3
            task = f"{'task' if phase == 'rollout' else 'gate'}-{place % tasks}"
            # What is done at the gate serves all steps, and is kept as of the first.
            yield phase, step if phase == "rollout" else 0, step, *rollout(task, place // tasks, prior, rng)


def rollout_row(run: str, phase: str, step: int, of: int, made: Rollout, reward: Reward) -> dict[str, Any]:
    prompt = made.messages[0].content
    attempt, judged = rollout_to_json(made), reward_to_json(reward)
    value, trouble = figures_of(attempt, judged)
    row = {
        "run": run,
        "name": NAME,
        "phase": phase,
        "step": step,
        "task": made.task_id,
        "attempt": made.index,
        "input_hash": content_hash([of, made.task_id, prompt]),
        "rollout": dumps(attempt),
        "verifier": "verifier-1" if reward.is_scored else None,
        "reward": dumps(judged),
        "reward_value": value,
        "trouble": trouble,
    }
    return {key: value for key, value in row.items() if key in metadata.tables["rollouts"].c}


def call_row(run: str, phase: Any, step: int, made: Rollout, number: int, rng: random.Random) -> dict[str, Any]:
    key = CallKey(phase=phase, step=step, task=made.task_id, rollout=made.index)
    request = Request(key=key, messages=made.messages[:2], temperature=0.7, seed=1)
    failed = made.failure is not None
    return {
        "run": run,
        "name": NAME,
        "key": str(key),
        "request_hash": content_hash([number, made.messages[0].content]),
        "attempt": 0,
        "model": MODEL,
        "state": "failed" if failed else "unknown" if rng.random() < 0.001 else "done",
        "request": dumps(request.content()),
        "reply": None if failed else dumps(reply_to_json(Reply(text=made.output, usage=made.usage))),
        "error": made.failure.detail if made.failure else None,
        "input_tokens": made.usage.input_tokens,
        "output_tokens": made.usage.output_tokens,
        "cached_tokens": made.usage.cached_tokens,
        "cost_usd": made.usage.cost_usd,
        "latency_s": made.latency_s,
        "sent_at": BEGAN + number,
        "phase": phase,
        "step": step,
    }


def run_row(run: str, kind: str, name: str, state: str, began: float) -> dict[str, Any]:
    config = {
        "name": name,
        "agent": {"kind": "chat", "model": MODEL, "instructions": INSTRUCTIONS},
        "learner": None,
        "verifier": {"kind": "math"},
        "learn": {"epochs": 10, "group_size": G, "gate": "proven"},
        "evaluate": {"k": 4},
        "budget": {"usd": 50.0, "tokens": None, "calls": None, "minutes": None},
    }
    return {
        "id": run,
        "name": name,
        "kind": kind,
        "config": json.dumps(config, sort_keys=True),
        "state": state,
        "detail": "",
        "created_at": began,
        "updated_at": began + 3600,
        "start": None,
    }


def step_rows(step: int, library: Library, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """What a step leaves behind beside its attempts."""
    at = {"run": RUN, "step": step}
    groups = {"mixed": 70, "all_fail": 20, "all_success": 10}
    trial = Trial(
        candidate=library,
        against="0" * 12,
        part="whole",
        decision=rng.choice(["ships", "open", "refused"]),
        gain=Interval(mean=0.03, low=-0.02, high=0.08, n=GATE_TASKS),
        p=0.03,
        level=0.005,
        scored=0.97,
        wins=20,
        losses=12,
        ties=28,
        missing=0,
        needed=400,
    )
    report = {
        "step": step,
        "epoch": step // 5,
        "tasks": TASKS,
        "rollouts": TASKS * G,
        "mean": round(0.4 + 0.2 * step / 50 + rng.gauss(0, 0.02), 4),
        "scored": TASKS * G - 32,
        "unscored": 16,
        "failed": {"timeout": 10, "connection": 6},
        "cut_off": 3,
        "groups": groups,
        "lessons": 140,
        "operations": {"Add": 3, "Keep": 20},
        "refused": {},
        "drops": {"a lesson without a text": 1},
        "effects": {},
        "trials": [trial.to_json()],
        "experiences": len(library),
        "library_version": library.version,
        "shipped_version": library.version,
    }
    ids = [e.id for e in library]
    observations = [
        Observation(task=f"task-{task}", step=step, attempts=((frozenset(ids[::2]), 1.0), (frozenset(ids[1::2]), 0.0)))
        for task in range(TASKS)
    ]
    value = dumps(library.to_json())
    done = [
        Add(
            name=f"Check the unit {3 * step + i}",
            text="When asked for a rate, write the unit first.",
            reason="so say 3",
        )
        for i in range(3)
    ]
    operations = [(to_json(one), "done", one.reason) for one in done]
    operations.append((to_json(Delete(id="G99", reason="gone")), "refused", "there is no G99"))
    return {
        "steps": [
            at
            | {
                "epoch": step // 5,
                "library_version": library.version,
                "library": value,
                "report": dumps(report),
                "shipped_version": library.version,
                "shipped": value,
                "observations": dumps([observation_to_json(one) for one in observations]),
            }
        ],
        "trials": [
            at
            | {
                "sequence": 0,
                "candidate_version": library.version,
                "candidate": value,
                "figures": dumps(trial.to_json()),
            }
        ],
        "operations": [
            at | {"sequence": i, "operation": dumps(one), "outcome": outcome, "reason": reason}
            for i, (one, outcome, reason) in enumerate(operations)
        ],
        "advantages": [
            at
            | {
                "task": f"task-{task}",
                "advantage": dumps(
                    advantage_to_json(
                        Advantage(
                            groups=(f"task-{task}",),
                            rollouts=tuple(f"task-{task}#{i}" for i in range(G)),
                            summaries=(PROSE,) * G,
                            lessons=(Lesson(name="Unit", text="When asked for a rate, write the unit first."),),
                        )
                    )
                ),
            }
            for task in range(0, TASKS, 2)
        ],
    }


def make_store(path: Path, *, rollouts: int = 100_000, steps: int = 50, small_runs: int = 60, seed: int = 0) -> None:
    """Fill a new store: one large learning run, its comparison with a fifth of the attempts, and many small runs."""
    open_store(path).close()
    rng = random.Random(seed)
    engine = sa.create_engine(f"sqlite:///{path}")
    tables = metadata.tables
    libraries = [library_at(step, rng) for step in range(steps)]
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")
        connection.commit()
        runs = [
            run_row(RUN, "learn", NAME, "stopped", BEGAN),
            run_row(COMPARED, "compare", NAME, "done", BEGAN + 9_000),
        ]
        runs += [
            run_row(f"small-{i:08x}", "learn", f"small-{i}", rng.choice(["done", "failed"]), BEGAN - 900 * i)
            for i in range(small_runs)
        ]
        connection.execute(tables["runs"].insert(), runs)
        for step, library in enumerate(libraries):
            for table, rows in step_rows(step, library, rng).items():
                connection.execute(tables[table].insert(), rows)
        connection.commit()
        evaluated = rollouts // 5
        practised = attempts(rollouts - evaluated, libraries, rng)
        arms = compared(evaluated, libraries[-1], rng)
        for table, of_comparison in comparison_rows(arms).items():
            connection.execute(tables[table].insert(), of_comparison)
        connection.commit()
        groups = (group for _, made in arms.values() for group in made)
        held_out = (
            ("evaluate", 0, 0, *pair) for group in groups for pair in zip(group.rollouts, group.rewards, strict=True)
        )
        for run, every in ((RUN, practised), (COMPARED, held_out)):
            rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
            for number, (phase, step, of, made, reward) in enumerate(every):
                rows[0].append(rollout_row(run, phase, step, of, made, reward))
                rows[1].append(call_row(run, phase, step, made, number, rng))
                if len(rows[0]) == 5_000:
                    _put(connection, rows)
                    rows = ([], [])
            _put(connection, rows)
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def _put(connection: sa.Connection, rows: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    for table, some in zip(("rollouts", "calls"), rows, strict=True):
        if some:
            connection.execute(metadata.tables[table].insert(), some)
    connection.commit()


def compared(count: int, library: Library, rng: random.Random) -> dict[str, tuple[Library, list[Group]]]:
    """The arms of a comparison with `K` attempts at each task, so many in all: by name the library and its groups."""
    libraries = [Library(), *(library.only([f"G{i}" for i in range(n)]) for n in (LESSONS, 9, 7))]
    arms: dict[str, tuple[Library, list[Group]]] = {arm: (one, []) for arm, one in zip(ARMS, libraries, strict=True)}
    for number in range(count // (K * len(arms))):
        task = Task(id=f"held-{number}", question=f"Problem {number}")
        for one, groups in arms.values():
            pairs = [rollout(task.id, index, TokenPrior.of(one), rng) for index in range(K)]
            made, rewards = zip(*pairs, strict=True)
            groups.append(Group(task=task, rollouts=made, rewards=rewards))
    return arms


def comparison_rows(arms: Mapping[str, tuple[Library, list[Group]]]) -> dict[str, list[dict[str, Any]]]:
    """What a comparison leaves behind beside its attempts."""
    design = Design(k=K, resamples=200)
    reports = [report_arm(arm, one, TokenPrior.of(one), groups, design) for arm, (one, groups) in arms.items()]
    tasks = len(reports[0].tasks)
    found = Comparison(
        arms=tuple(reports),
        differences=differ(reports, design, controls=ARMS[2:]),
        constant=("7", 0.01),
        design=design,
        tasks_done=tasks,
        tasks_total=tasks,
    ).to_json()
    kept = found | {"arms": [report.arm for report in reports]}
    return {
        "comparisons": [{"run": COMPARED, "comparison": dumps(kept)}],
        "evaluations": [
            {
                "run": COMPARED,
                "arm": report.arm,
                "library_version": report.library_version,
                "report": dumps(report.to_json()),
            }
            for report in reports
        ],
    }


def opened(base: str, opener: urllib.request.OpenerDirector, path: str, times: int) -> tuple[float, float, int]:
    """A page a few times: seconds of the first time, of the slowest other, and its bytes."""
    took: list[float] = []
    size = 0
    for _ in range(times):
        began = time.monotonic()
        with opener.open(base + path, timeout=60) as answer:
            size = len(answer.read())
        took.append(time.monotonic() - began)
    return took[0], max(took[1:], default=took[0]), size


def rss_mb(process: int) -> float:
    """Resident memory, in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def pages_of(store: Path) -> list[str]:
    """The address of every page, at places where there is much to show."""
    with open_store(store) as kept:
        call = kept.read(lambda c: c.execute(sa.text("select max(id) from calls where run = :r"), {"r": RUN}).scalar())
        version = kept.library(RUN).version
        earlier = kept.library(RUN, 3).version
    run = f"/runs/{RUN}"
    return [
        "/",
        run,
        f"{run}/live?since=0&steps=0",
        f"{run}/story?before=20",
        f"{run}/attempts?phase=rollout&trouble=failed%3A+timeout",
        f"{run}/library",
        f"{run}/library?at={earlier}",
        f"{run}/library/diff?before={earlier}&after={version}",
        f"{run}/versions",
        f"{run}/lessons/G0",
        f"{run}/groups",
        f"{run}/groups?show=mixed&after=40/task-5",
        f"{run}/group?step=7&task=task-4",
        f"{run}/attempt?step=7&task=task-4&attempt=0",
        f"/runs/{COMPARED}/comparison",
        f"/runs/{COMPARED}/comparison?sort=loss&show=worse",
        f"/runs/{COMPARED}/comparison/task?task=held-7",
        f"{run}/calls",
        f"{run}/calls?phase=gate&state=unknown",
        f"{run}/calls?model=nobody",
        f"{run}/calls?text=no+call+says+this",
        f"{run}/calls/{call}",
        f"{run}/report",
        "/start",
    ]


def measure(store: Path, times: int) -> None:
    command = [sys.executable, "-m", "tokenprior", "ui", "--port", "0", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            entry = server.stdout.readline().strip()
            base = entry.partition("/?")[0]
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            opener.open(entry, timeout=60).close()
            began_mb = rss_mb(server.pid)
            print(f"{'page':<64} {'first s':>8} {'then s':>8} {'kB':>8} {'RSS MB':>8}")
            for path in pages_of(store):
                try:
                    first, then, size = opened(base, opener, path, times)
                except urllib.error.HTTPError as error:
                    print(f"{path:<64} answers {error.code}")
                    continue
                print(f"{path:<64} {first:8.3f} {then:8.3f} {size / 1000:8.1f} {rss_mb(server.pid):8.1f}")
            after_mb = rss_mb(server.pid)
            for path in pages_of(store) * times:
                opener.open(base + path, timeout=60).close()
            again_mb = rss_mb(server.pid)
            print(
                f"RSS of the server: {began_mb:.0f} MB before, {after_mb:.0f} MB after, "
                f"{again_mb:.0f} MB after as much again"
            )
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="of an earlier call; made anew in a folder of its own by default")
    parser.add_argument("--keep", type=Path, help="make the store here, and leave it")
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5, help="how often each page is opened")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = arguments.store or arguments.keep or Path(folder) / "large.db"
        if not arguments.store:
            began = time.monotonic()
            make_store(store, rollouts=arguments.rollouts)
            took, size = time.monotonic() - began, store.stat().st_size / 1e6
            print(f"{arguments.rollouts:,} rollouts, {size:.0f} MB, made in {took:.0f} s")
        measure(store, arguments.times)


if __name__ == "__main__":
    main()

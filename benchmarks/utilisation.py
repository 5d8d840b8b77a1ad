"""Utilisation: how well tokenprior and its peers use the calls that they are allowed to have in flight.

    python -m venv /some/venv && /some/venv/bin/pip install -r benchmarks/requirements-peers.txt
    python benchmarks/utilisation.py --peers-python /some/venv/bin/python --json utilisation.jsonl       (all of it)
    python benchmarks/utilisation.py --parts large                  (one large step alone, 8 minutes)
    python benchmarks/utilisation.py --table utilisation.jsonl               (the tables again, without a call)

All run one after the other (the peers `--at-once`) against one endpoint on loopback, `latency.py`: heavy-tailed lengths
drawn from the request, so that nobody has better luck. Every program is allowed `--slots` calls in flight. Each runs in
a process of its own, the peers with their own Python, for dspy and tokenprior want different versions of the openai
package. `endpoint.warm` of tokenprior is off: this endpoint caches nothing. Where a library is longer than 1,024 tokens
it would cost a second or two at the beginning of each step. The parts:

- `large`: tokenprior, one step of `--tasks` x G. When nothing is left to begin, the longest calls run out: about 8 mean
  latencies during which slots stand empty, in a step of any size, for lengths cannot be known beforehand. 95% use at 64
  slots takes a step of about 10,000 calls (1,700 tasks x 5 and a contrast each), if nothing else is lost.
- `paper`: tokenprior with its `paper` preset, three steps of 100 x 5, each attempt summarised. A step is hardly longer
  than its longest chain of calls, so nobody could fill the slots: read "over bound", not "used".
- `peers`: the same calls for all, `--epochs` x `--items` x (G + 1); at the defaults that is what SIMBA takes with its
  own settings throughout (8 steps of 32 items, 6 candidates). tokenprior takes the items in epochs of one step each,
  without and with its gate (which makes more calls), and as many calls in one step of other items; the peers get half
  of the items to train on and half to validate on (SIMBA, which takes one set, all). Knobs as in `peers.py`, with the
  libraries' own numbers of threads set to the slots. "gepa x8" is GEPA with the documented `IndependentSampling(8)`,
  eight proposals an iteration in place of one.
- `rate`: tokenprior and the peers under a limit of `--requests-per-minute` (of unscaled time), with fewer calls. The
  peers are told to be patient: `num_retries` of 10 in place of 3.

How to read a line, all from the endpoint's trace: "concurrency" is busy time over the makespan, "used" that over the
slots. "bound" is the larger of busy time spread evenly over the slots and the longest chain of calls that had to wait
for each other (see `makespan.longest_chain_s`; for the peers it takes every learning call as a barrier, which is kind
to them), "over bound" the makespan over it. "CPU" and "memory" are those of the program's own process, without its
imports, and its peak. A "step" line is the part from the first attempt to the last call before the library update.
The bars are concurrency over time, 40 columns; a full one means that all slots are in use. Under a rate limit they are
calls that began and were not refused; a full one is the allowed rate. "429s" are refusals, "given up" requests that
were refused and not sent again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from endpoint import SEED_INSTRUCTION, item
from latency import Served, added
from makespan import Call, Figures, drawn, figures, given_up, profile, served, span, starts, steps

GATE_ITEM = 100_000  # the number of the first item of the gate
BARRIERS = {"tokenprior": ("revise",)}
PEER_BARRIERS = ("instruction", "advice", "describe")
PARTS = ("large", "paper", "peers", "rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of one program.

    Attributes:
        name: as the table has it, and in the address of the endpoint with spaces as dashes.
        library: `tokenprior`, or one of `peers.LIBRARIES`.
        slots: calls that it may have in flight.
        items: tasks; half of them are for validation where a library wants it.
        budget: calls that the knobs of a peer are set by.
        learn: settings of `LearnConfig`.
        gate_tasks: besides the items.
        proposals: an iteration, for GEPA.
        retries: of the peers, for one call.
    """

    part: str
    name: str
    library: str
    slots: int
    items: int
    budget: int = 0
    learn: dict[str, Any] | None = None
    gate_tasks: int = 0
    proposals: int = 1
    retries: int = 3
    seed: int = 1

    @property
    def run(self) -> str:
        return f"{self.part}-{self.name.replace(' ', '-')}"

    @property
    def barriers(self) -> Sequence[str]:
        return BARRIERS.get(self.library, PEER_BARRIERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a child says of itself.

    Attributes:
        error: what it raised, or `None`.
        cpu_s: of its process, from when everything was imported.
        peak_mb: of its process, imports included.
    """

    error: str | None
    cpu_s: float
    peak_mb: float


async def learned(job: Job, url: str) -> None:
    """tokenprior as a session connects it: real client, budget, ledger and a store on disk."""
    from tokenprior.agents.chat import ChatAgent
    from tokenprior.config import LearnConfig
    from tokenprior.endpoint_settings import EndpointSettings
    from tokenprior.learn import learn
    from tokenprior.models.budget import Budget, Limits
    from tokenprior.models.connect import Connections
    from tokenprior.prove import Gate
    from tokenprior.store import open_store
    from tokenprior.task import Task, TaskSet
    from tokenprior.verifiers import make_verifier

    def tasks(first: int, count: int) -> TaskSet:
        return TaskSet(
            Task(id=f"item-{n}", question=item(n)[0], answer=item(n)[1]) for n in range(first, first + count)
        )

    # This endpoint has no cache to warm, and the second that warming waits would not be scaled.
    settings = EndpointSettings(concurrency=job.slots, warm=False)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "utilisation.db") as store:
        record = store.open_run("u-1", name="u", kind="learn", config={})
        connections = Connections(settings, ledger=record, budget=Budget(Limits()), prices={}, policy=settings.policy)
        async with connections:
            model = await connections.model(f"{url}#world")
            agent = ChatAgent(model=model, instructions=SEED_INSTRUCTION, max_tokens=4_000)
            await learn(
                tasks(0, job.items),
                agent=agent,
                verifier=make_verifier({"kind": "exact"}),
                model=model,
                record=record,
                config=LearnConfig.model_validate(job.learn or {}),
                gate=Gate(tasks=tasks(GATE_ITEM, job.gate_tasks), agent=agent) if job.gate_tasks else None,
            )
        record.close("done")


def optimised(job: Job, url: str) -> None:
    """A peer, as `peers.py` drives it."""
    import peers

    setting = peers.Setting(
        library=job.library,
        base_rate=0.0,  # the endpoint knows
        effect=0.0,
        find_rate=0.0,
        run=0,
        seed=job.seed,
        budget=job.budget,
        train=job.items // 2,
        validation=job.items - job.items // 2,
        concurrency=job.slots,
        latency_s=0.0,
        batch=32,
        proposals=job.proposals,
        retries=job.retries,
    )
    peers.LIBRARIES[job.library](setting, url)


def child(job: Job, url: str) -> Told:
    """The run itself, in this process."""
    if job.library == "tokenprior":
        import tokenprior.models.provider
        import tokenprior.session  # noqa: F401  # all imports before the clock starts
    else:
        import peers

        peers.prepare()
        import gepa  # noqa: F401
    error = None
    before_s = time.process_time()
    try:
        if job.library == "tokenprior":
            asyncio.run(learned(job, url))
        else:
            optimised(job, url)
    except Exception as raised:  # whatever a library raises is a result of its run
        error = f"{type(raised).__name__}: {raised}"[:300]
    return Told(
        error=error,
        cpu_s=time.process_time() - before_s,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def run(job: Job, endpoint: Served, python: str) -> dict[str, Any]:
    """Run a job in a process of its own, and what came of it as a record."""
    url = f"{endpoint.url}/{job.run}/v1"
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "told.json"
        command = [python, __file__, "--child", json.dumps(asdict(job)), url, str(answer)]
        environment = os.environ | {"TOKENPRIOR_API_KEY": "none"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not answer.exists():
            raise RuntimeError(f"{job.name} ended with {done.returncode}: {done.stderr[-1_000:]}")
        told = json.loads(answer.read_text())
    calls, _ = endpoint.trace(job.run)
    return {"run": job.run, "job": asdict(job), "told": told, **summary(job, calls)}


def summary(job: Job, calls: Sequence[Call]) -> dict[str, Any]:
    """What a trace says of a job."""
    known = served(calls)
    if not known:
        return {"lines": [], "given_up": given_up(calls), "refused": len(calls), "served": 0}
    whole = figures(known, slots=job.slots, barriers=job.barriers)
    lines = [_line(job.name, whole, known, span(known), job)]
    windows = steps(known, range(job.items)) if job.library == "tokenprior" else []
    for number, window in enumerate(windows, start=1):
        within = figures(known, slots=job.slots, barriers=job.barriers, within=window)
        lines.append(_line(f"  step {number}", within, known, window, job))
    return {
        "lines": lines,
        "served": len(known),
        "given_up": given_up(calls),
        "refused": sum(call.status == 429 for call in calls),
        "unknown": sum(call.status == 400 for call in calls),
        "prompt_tokens": sum(call.prompt_tokens for call in known),
        "output_tokens": sum(call.output_tokens for call in known),
        "mean_s": sum(call.latency_s for call in known) / len(known),
        "longest_s": max(call.latency_s for call in known),
        "added_ms": added([call.latency_s - call.intended_s for call in known]),
    }


def _line(name: str, of: Figures, calls: Sequence[Call], window: tuple[float, float], job: Job) -> dict[str, Any]:
    return {"name": name, "concurrency": profile(calls, window), "starts": starts(calls, window), **asdict(of)}


def jobs(asked: argparse.Namespace) -> list[Job]:
    """What to run, in order."""
    plain: dict[str, Any] = {"gate": "none", "group_size": asked.group_size, "seed": asked.seed}
    ours = Job(part="large", name="tokenprior", library="tokenprior", slots=asked.slots, items=asked.tasks)
    ours = replace(ours, learn=plain | {"epochs": 1}, seed=asked.seed)
    calls = asked.epochs * asked.items * (asked.group_size + 1)
    paper = replace(ours, part="paper", name="tokenprior paper", items=100, learn={"preset": "paper"})
    three = replace(ours, part="peers", name="tokenprior", items=asked.items, learn=plain | {"epochs": asked.epochs})
    one = replace(three, name="tokenprior 1 step", items=asked.epochs * asked.items, learn=plain | {"epochs": 1})
    gated = replace(
        three, name="tokenprior gate", gate_tasks=40, learn=plain | {"epochs": asked.epochs, "gate": "proven"}
    )
    peer = Job(part="peers", name="", library="", slots=asked.slots, items=asked.items, budget=calls, seed=asked.seed)
    others = [
        replace(peer, name="gepa", library="gepa"),
        replace(peer, name="gepa x8", library="gepa", proposals=8),
        replace(peer, name="dspy gepa", library="dspy-gepa"),
        replace(peer, name="mipro", library="mipro"),
        replace(peer, name="simba", library="simba"),
    ]
    items = asked.rate_items
    few = asked.epochs * items * (asked.group_size + 1)
    limited = [replace(job, part="rate", items=items, budget=few, retries=10) for job in (three, *others)]
    limited.insert(1, replace(one, part="rate", items=asked.epochs * items))
    return [job for job in (ours, paper, three, one, gated, *others, *limited) if job.part in asked.parts]


HEADER = (
    f"{'':<17} {'calls':>6} {'makespan':>9} {'concurrency':>11} {'used':>6} {'bound':>8} {'over bound':>10} "
    f"{'CPU/call':>9} {'memory':>7} {'tokens in':>10} {'out':>9}  concurrency over time"
)


def table(records: Iterable[dict[str, Any]]) -> str:
    """One part as a table."""
    text = [HEADER]
    for record in records:
        told, served_calls = record["told"], max(1, record["served"])
        own = (
            f"{1000 * told['cpu_s'] / served_calls:>6.1f} ms {told['peak_mb']:>4.0f} MB "
            f"{record.get('prompt_tokens', 0):>10,} {record.get('output_tokens', 0):>9,}"
        )
        for line in record["lines"]:
            text.append(
                f"{line['name']:<17} {line['calls']:>6} {line['makespan_s']:>7.1f} s {line['mean_concurrency']:>11.1f} "
                f"{line['utilisation']:>6.3f} {line['bound_s']:>6.1f} s {line['over_bound']:>10.3f} "
                f"{own}  {drawn(line['concurrency'], record['job']['slots'])}"
            )
            own = " " * len(own)
        if told["error"]:
            text.append(f"{record['job']['name']:<17} failed: {told['error']}")
    return "\n".join(text)


def rate_table(records: Iterable[dict[str, Any]], per_s: float) -> str:
    """The part under a rate limit: how much of the allowed rate was used.

    Args:
        per_s: requests that were allowed, in the time of the trace.
    """
    text = [
        f"{'':<17} {'calls':>6} {'makespan':>9} {'a second':>8} {'of allowed':>10} {'429s':>6} {'given up':>8}  "
        "calls begun over time"
    ]
    for record in records:
        told = record["told"]
        own = f"{record['refused']:>6} {record['given_up']:>8}"
        for line in record["lines"]:
            rate = line["calls"] / line["makespan_s"]
            text.append(
                f"{line['name']:<17} {line['calls']:>6} {line['makespan_s']:>7.1f} s {rate:>8.1f} "
                f"{rate / per_s:>10.2f} {own}  {drawn(line['starts'], per_s)}"
            )
            own = " " * len(own)
        if told["error"]:
            text.append(f"{record['job']['name']:<17} failed: {told['error']}")
    return "\n".join(text)


def show(records: Iterable[dict[str, Any]]) -> None:
    records = sorted(records, key=lambda record: (record["job"]["library"] != "tokenprior", record["job"]["name"]))
    for part in PARTS:
        if not (of_part := [record for record in records if record["job"]["part"] == part]):
            continue
        if part != "rate":
            print(f"\n{part}\n{table(of_part)}")
            continue
        per_s = of_part[0]["allowed_per_s"]
        print(f"\nrate: {per_s:.1f} requests a second allowed\n{rate_table(of_part, per_s)}")
    for record in records:
        if record.get("unknown"):
            print(f"{record['job']['name']}: {record['unknown']} prompts were not understood, this run says nothing")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--peers-python", default=None, help="Python with dspy and gepa; without it the peers are left out"
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--programs", nargs="+", help="only jobs of these names")
    made.add_argument("--slots", type=int, default=64)
    made.add_argument("--tasks", type=int, default=3_000, help="of the large step")
    made.add_argument("--items", type=int, default=200, help="of the comparison with the peers")
    made.add_argument("--epochs", type=int, default=4, help="of tokenprior in that comparison; sets the calls of all")
    made.add_argument("--at-once", type=int, default=1, help="peers side by side; more saves time where cores are idle")
    made.add_argument("--rate-items", type=int, default=60, help="of the comparison under a rate limit")
    made.add_argument("--group-size", type=int, default=5)
    made.add_argument("--time-scale", type=float, default=0.25)
    made.add_argument("--requests-per-minute", type=float, default=300.0, help="of unscaled time")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--json", type=Path, help="where every run is added as a line")
    made.add_argument("--table", type=Path, help="print the tables of this file instead")
    made.add_argument("--child", nargs=3, metavar=("JOB", "URL", "ANSWER"), help=argparse.SUPPRESS)
    return made


def main() -> None:
    arguments = parser()
    asked = arguments.parse_args()
    if asked.peers_python and not shutil.which(asked.peers_python):
        arguments.error(f"--peers-python: there is no Python at {asked.peers_python}; see the top of --help")
    if asked.child:
        job, url, answer = asked.child
        Path(answer).write_text(json.dumps(asdict(child(Job(**json.loads(job)), url))))
        return
    if asked.table:
        show([json.loads(line) for line in asked.table.read_text().splitlines()])
        return
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {asked.slots} slots, time scale "
        f"{asked.time_scale}; times are scaled"
    )
    options = ("--time-scale", str(asked.time_scale), "--seed", str(asked.seed))
    limit = ("--requests-per-minute", str(asked.requests_per_minute))
    wanted = [job for job in jobs(asked) if not asked.programs or job.name in asked.programs]
    ours = [job for job in wanted if job.library == "tokenprior"]
    others = [job for job in wanted if job.library != "tokenprior" and asked.peers_python]
    records: list[dict[str, Any]] = []
    with Served(*options) as free, Served(*options, *limit) as limited, ThreadPoolExecutor(asked.at_once) as pool:

        def one(job: Job) -> dict[str, Any]:
            python = sys.executable if job.library == "tokenprior" else asked.peers_python
            record = run(job, limited if job.part == "rate" else free, python)
            return record | {"allowed_per_s": asked.requests_per_minute / 60 / asked.time_scale}

        def ended() -> Iterator[dict[str, Any]]:
            yield from map(one, ours)
            for done in as_completed([pool.submit(one, job) for job in others]):
                yield done.result()

        for record in ended():
            records.append(record)
            print(
                f"{record['run']}: {record['served']} calls, mean {record.get('mean_s', 0):.2f} s, longest "
                f"{record.get('longest_s', 0):.1f} s; the endpoint added (ms, p50 p99 max) {record.get('added_ms')}",
                flush=True,
            )
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    show(records)


if __name__ == "__main__":
    main()

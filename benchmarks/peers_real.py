"""Peers on real data: what GEPA and dspy SIMBA make of a tokenprior config at the same number of model calls.

    python -m venv /some/venv && /some/venv/bin/pip install -r benchmarks/requirements-peers.txt
    tokenprior models serve --port 8080 --context 8192                     (or any other OpenAI-compatible address)
    python benchmarks/peers_real.py examples/demo/demo.yaml --peers-python /some/venv/bin/python \\
        --endpoint http://127.0.0.1:8080/v1 --model embedded --calls 600 --seeds 0 1 2 --json peers-real.jsonl

It runs in the environment of tokenprior. The peers are in another one, since litellm cannot live beside openai 3: each
run is this same file, started there as a worker, which is given its job on stdin and answers on stdout. A worker
reaches nothing but a relay on the loopback address, which forwards its calls to the endpoint, counts every one of them
(retries and second tries of a format too), and judges outputs with the verifier of the config.

What is equal. Everybody begins with `agent.instructions` and has the same parts of the data for a seed (the seed parts
the tasks as in `learning.py`): practice tasks to learn from, gate tasks to choose by, held-out tasks for the figure
only. Attempts have `agent.max_tokens` and, while learning, `learn.temperature`; the model that reflects is the
endpoint's own.

- gepa: an adapter of ours asks with the prompt of tokenprior's agent, system = instruction and user = question, so the
  result is an instruction. Reflection sees score, feedback and reference answer. Train set: practice; validation set:
  gate. It stops before the first iteration that could pass the budget: two minibatches of three, a reflection with its
  second try, and a whole validation. That is counted in real calls, so `max_metric_calls`, which counts no
  reflections, is not used. All else as it comes.
- simba: a dspy module with one `question -> answer`, in dspy's own chat format, with as much more room to write as the
  marks of that format take. Its one set of items is practice and gate together. 6 candidates and 4 demonstrations as
  it comes, and as many steps of `--batch` items as the budget has room for (8; the 32 that it comes with would leave
  most budgets a step or two); what is left widens the batch. Answers that cannot be read are asked for again as JSON,
  so an attempt may take two calls: how many it takes is measured with the unoptimised program while its held-out
  figure is made. If advice changes that, a run may pass the budget; it is then marked "over". It samples attempts to
  learn from at temperature 1.0, whatever the config says: that is fixed in SIMBA.

How to read a line. "reported": the score that the library gives its shipped prompt on its own validation items.
"held-out": mean over held-out tasks of `--k` attempts at `evaluate.temperature`, with its 95% interval over tasks, for
the seed prompt asked by tokenprior's agent, for dspy's unoptimised program (its format changes the prompt, so that
alone may help or hurt), and for what was shipped. "gain": paired by task, with the p-value of the sign-flip test. A
failed call or an unscored output enters no held-out mean and is counted apart; an answer in no readable format is
wrong. While learning, all three score 0. Calls for held-out figures are not part of the budget.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import math
import os
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

PEERS = ("gepa", "simba")
MINIBATCH = 3  # of a GEPA reflection, as it comes
CANDIDATES = 6  # of a SIMBA step, as it comes
FORMAT_TOKENS = 64  # what the marks of dspy's chat format take beside the answer
Attempts = list[dict[str, str]]  # of one task: each has an "output", or else "failed" or "unread" with the reason


# The worker, in the environment of the peers: nothing of tokenprior is imported here.


def work() -> None:
    """One run: the job from stdin, its outcome to stdout. All else that is printed goes to stderr."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    outcome: dict[str, Any] = {}
    try:
        from peers import prepare

        prepare()
        runs: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"gepa": run_gepa, "simba": run_simba}
        outcome = runs[job["peer"]](job)
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-2_000:]}
    with answer:
        json.dump(outcome, answer)


def run_gepa(job: Mapping[str, Any]) -> dict[str, Any]:
    import gepa
    from gepa.core.adapter import EvaluationBatch

    calls = Tally()

    class Adapter:
        propose_new_texts = None

        def evaluate(self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            def one(task: Mapping[str, Any]) -> dict[str, Any]:
                messages = prompt(candidate["instruction"], task["question"])
                try:
                    said = ask(job, messages, calls, temperature=job["temperature"], max_tokens=job["max_tokens"])
                except OSError as failed:
                    return {"task": task, "output": "", "score": 0.0, "feedback": f"No answer: {failed}"}
                return {"task": task, "output": said, **judge(job, task, said)}

            with ThreadPoolExecutor(job["concurrency"]) as pool:
                made = list(pool.map(one, batch))
            return EvaluationBatch(
                outputs=[one["output"] for one in made],
                scores=[one["score"] for one in made],
                trajectories=made if capture_traces else None,
            )

        def make_reflective_dataset(
            self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
        ) -> dict[str, list[dict[str, str]]]:
            seen = [
                {"Inputs": one["task"]["question"], "Generated Outputs": one["output"], "Feedback": one["feedback"]}
                for one in eval_batch.trajectories
            ]
            return dict.fromkeys(components_to_update, seen)

    class Silent:
        def log(self, message: str) -> None:
            """gepa's logger prints every step."""

    def reflect(asked: str | list[dict[str, Any]]) -> str:
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return ask(job, messages, calls, temperature=1.0, max_tokens=job["reflection_tokens"])

    # A reflection that fails is tried once more.
    iteration = 2 * MINIBATCH + 2 + len(job["gate"])
    if job["calls"] < len(job["gate"]) + iteration:
        raise ValueError(f"the budget must be at least {len(job['gate']) + iteration} calls")
    began_s = time.monotonic()
    result = gepa.optimize(
        seed_candidate={"instruction": job["instruction"]},
        trainset=job["practice"],
        valset=job["gate"],
        adapter=Adapter(),
        reflection_lm=reflect,
        reflection_minibatch_size=MINIBATCH,
        stop_callbacks=lambda state: calls.count + iteration > job["calls"],
        logger=Silent(),
        seed=job["seed"],
    )
    best = result.best_candidate
    assert isinstance(best, dict)
    scores = result.val_aggregate_scores
    return {
        "learn_s": time.monotonic() - began_s,
        "instruction": best["instruction"],
        "demos": [],
        "changed": best["instruction"] != job["instruction"],
        "reported": scores[result.best_idx],
        "began": scores[0],
        "knobs": {"reflection_minibatch_size": MINIBATCH, "candidates_accepted": len(scores) - 1},
    }


def run_simba(job: Mapping[str, Any]) -> dict[str, Any]:
    import dspy

    # A module of our own, not a bare Predict: SIMBA puts the source of its class before the model that gives advice,
    # and that of Predict alone is longer than the context of a small model.
    class Answer(dspy.Module):
        def __init__(self, signature: Any) -> None:
            super().__init__()
            self.respond = dspy.Predict(signature)

        def forward(self, question: str) -> Any:
            return self.respond(question=question)

    def model(phase: str, temperature: float, max_tokens: int) -> Any:
        return dspy.LM(
            f"openai/{job['model']}",
            api_base=f"{job['relay']}/{phase}/v1",
            api_key="none",
            cache=False,
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=job["timeout_s"],
        )

    items = [*job["practice"], *job["gate"]]
    # By question and answer: an id of the task in the example would be shown to the model that gives advice.
    tasks = {(task["question"], task["answer"]): task for task in items}

    def metric(gold: Any, made: Any, trace: Any = None) -> Any:
        if made is None:
            return 0.0
        verdict = judge(job, tasks[gold.question, gold.answer], made.answer)
        return dspy.Prediction(score=verdict["score"], feedback=verdict["feedback"])

    room = job["max_tokens"] + FORMAT_TOKENS
    student = Answer(dspy.Signature("question -> answer", job["instruction"] or None))
    figure_model = model("figure", job["figure_temperature"], room)
    before = counted(job)["figure"]
    unoptimised = attempts_of(student, figure_model, job)
    calls_each = max(1.0, (counted(job)["figure"] - before) / (len(job["held_out"]) * job["k"]))
    batch, steps = simba_size(job["calls"], len(items), min(job["batch"], len(items)), calls_each)
    began_s = time.monotonic()
    with dspy.context(lm=model("learn", job["temperature"], room)):
        optimiser = dspy.SIMBA(
            metric=metric,
            bsize=batch,
            num_candidates=CANDIDATES,
            max_steps=steps,
            prompt_model=model("learn", 1.0, job["reflection_tokens"]),
            num_threads=job["concurrency"],
        )
        examples = [
            dspy.Example(question=task["question"], answer=task["answer"]).with_inputs("question") for task in items
        ]
        made = optimiser.compile(student, trainset=examples, seed=job["seed"])
    learn_s = time.monotonic() - began_s
    instruction, demos = made.respond.signature.instructions, made.respond.demos
    changed = bool(demos) or instruction != student.respond.signature.instructions
    seeds = [
        one["score"]
        for one in made.candidate_programs
        if not one["program"].respond.demos
        and one["program"].respond.signature.instructions == student.respond.signature.instructions
    ]
    return {
        "learn_s": learn_s,
        "instruction": instruction,
        "demos": [{key: str(value) for key, value in demo.items()} for demo in demos],
        "changed": changed,
        "reported": made.candidate_programs[0]["score"],
        "began": seeds[0] if len(seeds) == 1 else None,
        "knobs": {"bsize": batch, "max_steps": steps, "calls_each": round(calls_each, 3)},
        "unoptimised": unoptimised,
        "shipped": attempts_of(made, figure_model, job) if changed else unoptimised,
    }


def simba_size(calls: int, items: int, batch: int, calls_each: float) -> tuple[int, int]:
    """Batch size and steps: as many steps of the given batch as there is room for, and then the batch widened to fill
    what is left.

    A step samples and tries, and asks for advice: about every other strategy adds a demonstration instead, and advice
    may take two calls. In the end the winners and the seed program see all items.
    """

    def needed(size: int, steps: int) -> int:
        step = size * (2 * CANDIDATES + 1) * calls_each + max(size, CANDIDATES + 1)
        return math.ceil(steps * step + (min(steps, CANDIDATES) + 1) * items * calls_each)

    if needed(batch, 1) > calls:
        raise ValueError(f"the budget must be at least {needed(batch, 1)} calls, or --batch smaller")
    steps = 1
    while needed(batch, steps + 1) <= calls:
        steps += 1
    while batch < items and needed(batch + 1, steps) <= calls:
        batch += 1
    return batch, steps


def attempts_of(program: Any, model: Any, job: Mapping[str, Any]) -> list[Attempts]:
    """k attempts of a dspy program at each held-out task."""
    import dspy
    from dspy.utils.exceptions import AdapterParseError

    def one(task: Mapping[str, Any]) -> dict[str, str]:
        with dspy.context(lm=model):
            try:
                return {"output": str(program(question=task["question"]).answer)}
            except AdapterParseError as error:
                return {"unread": str(error)[:300]}
            except Exception as error:
                return {"failed": f"{type(error).__name__}: {error}"[:300]}

    k = job["k"]
    with ThreadPoolExecutor(job["concurrency"]) as pool:
        made = list(pool.map(one, [task for task in job["held_out"] for _ in range(k)]))
    return [made[start : start + k] for start in range(0, len(made), k)]


class Tally:
    """Counts the calls of several threads."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


def prompt(instruction: str, question: str) -> list[dict[str, str]]:
    """What tokenprior's agent sends."""
    user = {"role": "user", "content": question}
    return [{"role": "system", "content": instruction}, user] if instruction else [user]


def ask(
    job: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], calls: Tally, *, temperature: float, max_tokens: int
) -> str:
    """One call while learning.

    Raises:
        OSError: it failed.
    """
    calls.add()
    asked = {"model": job["model"], "messages": messages, "temperature": temperature, "max_tokens": max_tokens}
    got = post(f"{job['relay']}/learn/v1/chat/completions", asked, job["timeout_s"])
    return text_of(got)


def judge(job: Mapping[str, Any], task: Mapping[str, Any], output: str) -> dict[str, Any]:
    """`score`, 0.0 where there is none, and `feedback` with the reference answer."""
    got = post(f"{job['relay']}/judge", {"task": task["id"], "output": output}, job["timeout_s"])
    score = 0.0 if got["value"] is None else float(got["value"])
    parts = [f"Score {score:g}.", got["feedback"] or got["reason"]]
    if task["answer"]:
        parts.append(f"The reference answer is: {task['answer']}")
    return {"score": score, "feedback": " ".join(part for part in parts if part)}


def counted(job: Mapping[str, Any]) -> Mapping[str, int]:
    return Counter(post(f"{job['relay']}/counts", {}, job["timeout_s"]))


def post(url: str, body: Mapping[str, Any], timeout_s: float) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise OSError(f"HTTP {error.code}: {error.read()[:300].decode(errors='replace')}") from error


def text_of(reply: Mapping[str, Any]) -> str:
    return str(reply["choices"][0]["message"].get("content") or "")


# From here on in the environment of tokenprior.


class Relay:
    """Between the peers and the endpoint, on the loopback address for as long as the `async with` block lasts.

    Attributes:
        url: its base address.
        calls: how many calls were forwarded, by phase ("learn" or "figure").
        failed: how many of them failed, by phase.
        said: the first few reasons, by phase.
        longest: the most tokens that one call took, prompt and reply together, by phase.
    """

    def __init__(self, endpoint: str, *, key: str | None, timeout_s: float) -> None:
        self.endpoint, self.key, self.timeout_s = endpoint.rstrip("/"), key, timeout_s
        self.url = ""
        self.verifier: Any = None
        self.tasks: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        self.calls: Counter[str] = Counter(learn=0, figure=0)
        self.failed: Counter[str] = Counter(learn=0, figure=0)
        self.longest: Counter[str] = Counter(learn=0, figure=0)
        self.said: dict[str, list[str]] = {"learn": [], "figure": []}

    async def __aenter__(self) -> Relay:
        import aiohttp
        from aiohttp import web

        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.timeout_s))
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/{phase:learn|figure}/v1/chat/completions", self._forwarded)
        app.router.add_post("/judge", self._judged)
        app.router.add_post("/counts", self._counted)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def forward(self, phase: str, body: bytes) -> tuple[int, bytes]:
        """HTTP status and body of the endpoint's reply; 502 where none came."""
        import aiohttp

        self.calls[phase] += 1
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            async with self._client.post(f"{self.endpoint}/chat/completions", data=body, headers=headers) as reply:
                status, got = reply.status, await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
            status, got = 502, json.dumps({"error": {"message": problem, "type": "server_error"}}).encode()
        if status == 200:
            try:
                used = json.loads(got)["usage"]["total_tokens"]
            except (ValueError, KeyError, TypeError):
                used = 0
            self.longest[phase] = max(self.longest[phase], used or 0)
        else:
            self.failed[phase] += 1
            if len(self.said[phase]) < 3:
                self.said[phase].append(f"HTTP {status}: {got[:300].decode(errors='replace')}")
        return status, got

    async def reward(self, task_id: str, output: str) -> Any:
        """The verdict of the config's verifier, as tokenprior itself would get it."""
        from tokenprior.rollout import Rollout

        return await self.verifier.verify(
            self.tasks[task_id], Rollout(task_id=task_id, index=0, messages=(), output=output)
        )

    async def _forwarded(self, request: Any) -> Any:
        from aiohttp import web

        status, got = await self.forward(request.match_info["phase"], await request.read())
        return web.Response(status=status, body=got, content_type="application/json")

    async def _judged(self, request: Any) -> Any:
        from aiohttp import web

        asked = await request.json()
        reward = await self.reward(asked["task"], asked["output"])
        return web.json_response({"value": reward.value, "feedback": reward.feedback, "reason": reward.reason})

    async def _counted(self, request: Any) -> Any:
        from aiohttp import web

        return web.json_response(self.calls)


class Figure:
    """Held-out attempts, judged.

    Attributes:
        means: by task id, over its scored attempts; a task without any is left out.
        apart: how many attempts failed, were unscored, or could not be read (these are wrong).
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        self.apart: Counter[str] = Counter()

    @classmethod
    async def of(cls, made: Sequence[Attempts], tasks: Sequence[Any], relay: Relay) -> Figure:
        figure = cls()
        for task, attempts in zip(tasks, made, strict=True):
            values = []
            for attempt in attempts:
                if "failed" in attempt:
                    figure.apart["failed"] += 1
                elif "unread" in attempt:
                    figure.apart["unread"] += 1
                    values.append(0.0)
                else:
                    reward = await relay.reward(task.id, attempt["output"])
                    if reward.value is None:
                        figure.apart["unscored"] += 1
                    else:
                        values.append(reward.value)
            if values:
                figure.means[task.id] = fmean(values)
        return figure

    def score(self, config: Any) -> dict[str, Any]:
        """Mean and interval as a record."""
        return {**_interval(list(self.means.values()), config), "apart": dict(self.apart), "tasks": self.means}

    def gain_over(self, other: Figure, config: Any) -> dict[str, Any]:
        """Paired by task: mean, interval and p-value."""
        from tokenprior.statistics import sign_flip

        differences = [mean - other.means[task] for task, mean in self.means.items() if task in other.means]
        return {**_interval(differences, config), "p": sign_flip(differences)}


def _interval(values: Sequence[float], config: Any) -> dict[str, Any]:
    from tokenprior.statistics import bootstrap_mean

    if not values:
        raise RuntimeError("no held-out task has a scored attempt")
    found = bootstrap_mean(values, resamples=config.evaluate.resamples, seed=config.evaluate.seed)
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


async def plain_attempts(
    instruction: str, tasks: Sequence[Any], relay: Relay, job: Mapping[str, Any]
) -> list[Attempts]:
    """k attempts at each task with the prompt of tokenprior's agent."""
    from tokenprior.task import content_hash

    flying = asyncio.Semaphore(job["concurrency"])

    async def one(task: Mapping[str, Any], index: int) -> dict[str, str]:
        asked = {
            "model": job["model"],
            "messages": prompt(instruction, task["question"]),
            "temperature": job["figure_temperature"],
            "max_tokens": job["max_tokens"],
            "seed": int(content_hash([job["seed"], task["id"], index])[:7], 16),
        }
        async with flying:
            status, got = await relay.forward("figure", json.dumps(asked).encode())
        if status != 200:
            return {"failed": f"HTTP {status}: {got[:300].decode(errors='replace')}"}
        try:
            return {"output": text_of(json.loads(got))}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return {"failed": f"no chat completion: {error!r}"}

    k = job["k"]
    made = await asyncio.gather(*(one(task, index) for task in tasks for index in range(k)))
    return [list(made[start : start + k]) for start in range(0, len(made), k)]


def as_item(task: Any, template: str) -> dict[str, str]:
    """A task as the peers get it: the question as the agent is asked, the reference answer as a text."""
    reference = " or ".join(task.accepted)
    if not reference and task.answer is not None:
        reference = json.dumps(task.answer, ensure_ascii=False)
    return {"id": task.id, "question": template.replace("{question}", task.question), "answer": reference}


async def run_worker(python: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of one run; what went wrong is in its `error`."""
    with tempfile.TemporaryFile() as said:
        worker = await asyncio.create_subprocess_exec(
            str(python),
            __file__,
            "--worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
        )
        try:
            answered, _ = await worker.communicate(json.dumps(job).encode())
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        said.seek(0)
        last_words = said.read()[-2_000:].decode(errors="replace")
    try:
        outcome: dict[str, Any] = json.loads(answered)
    except ValueError:
        outcome = {"error": f"the worker ended with {worker.returncode}"}
    return outcome | ({"said": last_words} if "error" in outcome else {})


async def one_seed(asked: argparse.Namespace, path: Path, seed: int) -> None:
    from learning import seeded

    from tokenprior.config import load_config
    from tokenprior.session import read_tasks
    from tokenprior.verifiers import make_verifier

    config = seeded(load_config(path), seed, "unused.db")
    split = read_tasks(config)
    for part in ("practice", "gate", "held_out"):
        if not getattr(split, part):
            raise SystemExit(f"{path}: no {part} tasks: the peers need tasks.split with practice, gate and held_out")
    parts = {
        part: [as_item(task, config.agent.template) for task in getattr(split, part)]
        for part in ("practice", "gate", "held_out")
    }
    timeout_s = max(config.agent.timeout_s, config.learn.learning_timeout_s)
    key = os.environ.get(config.endpoint.key_variable or "")
    async with Relay(asked.endpoint, key=key, timeout_s=timeout_s) as relay:
        relay.tasks = {task.id: task for task in split.every}
        relay.verifier = make_verifier(config.verifier, tasks=split.every)
        job: dict[str, Any] = {
            "relay": relay.url,
            "timeout_s": timeout_s,
            "model": asked.model,
            "calls": asked.calls,
            "seed": seed,
            "instruction": config.agent.instructions,
            "temperature": config.learn.resolved().temperature,
            "figure_temperature": config.evaluate.temperature,
            "max_tokens": config.agent.max_tokens,
            "reflection_tokens": asked.reflection_tokens,
            "k": asked.k or config.evaluate.k,
            "concurrency": asked.concurrency,
            "batch": asked.batch,
            **parts,
        }
        try:
            made = await plain_attempts(config.agent.instructions, parts["held_out"], relay, job)
            base = await Figure.of(made, split.held_out, relay)
            if not base.means:
                raise SystemExit(f"{config.name}: no held-out attempt could be scored: {relay.said['figure'][:1]}")
            for peer in asked.peers:
                relay.reset()
                record = await one_run({**job, "peer": peer}, config, split, relay, base, asked.peers_python)
                print(line(record), flush=True)
                if asked.json:
                    with asked.json.open("a") as file:
                        file.write(json.dumps({**record, "versions": asked.versions}) + "\n")
        finally:
            close = getattr(relay.verifier, "aclose", None)
            if close is not None:
                await close()


async def one_run(
    job: Mapping[str, Any], config: Any, split: Any, relay: Relay, base: Figure, python: Path
) -> dict[str, Any]:
    """One run as a record. Whatever goes wrong is kept in it."""
    began_s = time.monotonic()
    parts = ("practice", "gate", "held_out")
    record: dict[str, Any] = {"name": config.name, "peer": job["peer"], "seed": job["seed"], "error": None}
    record["setting"] = {key: value for key, value in job.items() if key not in (*parts, "relay", "peer", "seed")}
    record["setting"] |= {part: len(job[part]) for part in parts}
    outcome = await run_worker(python, job)
    unoptimised, shipped = outcome.pop("unoptimised", None), outcome.pop("shipped", None)
    record |= outcome
    try:
        if not record["error"]:
            record["seed_prompt"] = base.score(config)
            if shipped is None and not record["changed"]:
                figure = base
            else:
                if shipped is None:
                    shipped = await plain_attempts(record["instruction"], job["held_out"], relay, job)
                figure = await Figure.of(shipped, split.held_out, relay)
            record["shipped"] = figure.score(config)
            record["gain"] = figure.gain_over(base, config)
            if unoptimised is not None:
                plain = await Figure.of(unoptimised, split.held_out, relay)
                record["unoptimised"] = plain.score(config)
                record["gain_over_unoptimised"] = figure.gain_over(plain, config)
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {error}"[:500]
        record["trace"] = traceback.format_exc()[-2_000:]
    return record | {
        "calls": relay.calls["learn"],
        "calls_for_figures": relay.calls["figure"],
        "failed_calls": dict(relay.failed),
        "failures": relay.said,
        "longest_call_tokens": dict(relay.longest),
        "minutes": round((time.monotonic() - began_s) / 60, 2),
    }


def line(record: Mapping[str, Any]) -> str:
    """A record in the words of the module's docstring."""
    budget = record["setting"]["calls"]
    over = ", over" if record["calls"] > budget else ""
    start = (
        f"{record['name']} {record['peer']}: {record['calls']} of {budget} calls{over} "
        f"({record['failed_calls']['learn']} failed)"
    )
    if record["error"]:
        return f"{start}, {record['minutes']:.1f} min; FAILED: {record['error']}"
    began = "-" if record["began"] is None else f"{record['began']:.3f}"
    dspy = (
        f"unoptimised program {_score(record['unoptimised'])}, gain over it {_gain(record['gain_over_unoptimised'])}, "
        if "unoptimised" in record
        else ""
    )
    demos = f" + {len(record['demos'])} demonstrations" if record["demos"] else ""
    shipped = record["instruction"] if record["changed"] else f"(unchanged) {record['instruction']}"
    return (
        f"{start}, {record['learn_s'] / 60:.1f} min; reported {record['reported']:.3f} (began {began}); "
        f"held-out seed prompt {_score(record['seed_prompt'])}, {dspy}shipped {_score(record['shipped'])}, "
        f"gain {_gain(record['gain'])}\n    {shipped[:300]!r}{demos}"
    )


def _score(score: Mapping[str, Any]) -> str:
    apart = "".join(f", {count} {what}" for what, count in sorted(score["apart"].items()))
    return f"{score['mean']:.3f} {_reach(score)}{apart}"


def _gain(gain: Mapping[str, Any]) -> str:
    return f"{gain['mean']:+.3f} {_reach(gain)} p {gain['p']:.3g}"


def _reach(found: Mapping[str, Any]) -> str:
    return "(no interval)" if found["low"] is None else f"[{found['low']:.3f}, {found['high']:.3f}]"


def versions_of(python: Path) -> dict[str, str]:
    """Versions of the peers and of ourselves.

    Raises:
        SystemExit: the peers are not there.
    """
    import subprocess

    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('gepa', 'dspy')}))"
    try:
        got = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{python} has no gepa and dspy ({error}): install benchmarks/requirements-peers.txt in a venv of its own "
            "and name its python with --peers-python"
        ) from error
    return {"tokenprior": importlib.metadata.version("tokenprior"), **json.loads(got)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--endpoint", required=True, help="such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default="embedded", help="its name at the endpoint")
    parser.add_argument("--peers-python", type=Path, required=True, help="the python that has gepa and dspy")
    parser.add_argument("--calls", type=int, required=True, help="budget of one run, attempts and reflections together")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--k", type=int, help="attempts at each held-out task; evaluate.k of the config if not given")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="the fewest items of a SIMBA step")
    parser.add_argument("--reflection-tokens", type=int, default=1_024, help="the most one reflection may write")
    parser.add_argument("--json", type=Path, help="where every run is added as a line")
    asked = parser.parse_args()
    asked.versions = versions_of(asked.peers_python)
    print(", ".join(f"{name} {version}" for name, version in asked.versions.items()), flush=True)
    for path in asked.configs:
        for seed in asked.seeds:
            asyncio.run(one_seed(asked, path, seed))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--worker"] else main()

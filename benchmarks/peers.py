"""Peers: what other prompt optimisers ship, and report, where no prompt can matter.

    python -m venv /some/venv && /some/venv/bin/pip install -r benchmarks/requirements-peers.txt
    /some/venv/bin/python benchmarks/peers.py --runs 20 --base-rates 0.25 0.5 --json peers.jsonl
    /some/venv/bin/python benchmarks/peers.py --runs 10 --base-rates 0.25 --effect 0.35 --json peers.jsonl
    /some/venv/bin/python benchmarks/peers.py --table peers.jsonl          (the table again, without a call)

GEPA (the package `gepa`), dspy.GEPA, dspy MIPROv2 and dspy SIMBA optimise one instruction on the scripted world of
`endpoint.py`: a right answer has the same probability whatever the prompt says (`--effect 0`), or there is one sentence
worth `effect` (`--effect 0.35`). Each run has a seed of its own, fresh noise, and the same budget of calls.

How to read a line. "changed": the shipped prompt is not the one the run began with (its instruction, or demonstrations
were added); on a null task every change is a false discovery. "reported": the score that the library gives its shipped
prompt on its own validation items, averaged over runs, plus and minus one standard error; "truth": the probability of a
right answer with that prompt, which is known here. "began": the reported score of the prompt that the run began with.
"rule": runs whose shipped prompt holds the sentence that matters. "calls": all calls made, and the most in one run.

Each library's own knobs, set so that policy and learning calls together stay within `--budget`:

- gepa, dspy-gepa: `max_metric_calls`, all else as it comes (three items a reflection; dspy-gepa may merge). They count
  evaluations only and look at the limit once an iteration, so room is kept for the last iteration (two minibatches and
  a whole validation) and for one reflection in every six evaluations.
- mipro: 6 candidates, demonstrations as they come (at most four bootstrapped and four labelled ones) and no
  mini-batches, as `auto="light"` has it at this size, but as many trials as the budget has room for after bootstrapping
  and proposals, and 6 instructions where `auto="light"` has 3 (the two numbers cannot be set apart).
- simba: 6 candidates and 4 demonstrations as it comes, mini-batches of 8 rather than 32, and as many steps as the
  budget has room for (the defaults, 32 and 8 steps, would take about 3,800 calls). It takes one set of items, and
  chooses by its score on all of them: it gets train and validation items together, which is more than the others choose
  on.

Caches are off, so that every call is fresh, and nothing is sent anywhere but to the loopback address. With several
calls in flight the order of arrival decides which draw a call gets, so a run is repeated in distribution, not to the
letter.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from endpoint import SEED_INSTRUCTION, Endpoint, has_rule, item

PACKAGES = ("gepa", "dspy", "litellm", "optuna")
Pairs = list[tuple[str, str]]  # question and right answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run: which library, in which world, with which means.

    Attributes:
        batch: the mini-batch of SIMBA.
        proposals: of GEPA (the package `gepa`) in one iteration.
        retries: of one call; the libraries' own number is 3.
    """

    library: str
    base_rate: float
    effect: float
    find_rate: float
    run: int
    seed: int
    budget: int
    train: int
    validation: int
    concurrency: int
    latency_s: float
    batch: int = 8
    proposals: int = 1
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What a library gave back.

    Attributes:
        instruction: of the shipped prompt.
        demos: how many demonstrations it has.
        reported: its score in the library's own words, 0.0 to 1.0.
        began: the same for the prompt that the run began with; `None` where the library does not say.
        knobs: what was set so that the run stays within its budget.
    """

    instruction: str
    demos: int
    reported: float
    began: float | None
    knobs: dict[str, int]


def run_gepa(setting: Setting, url: str) -> Shipped:
    import gepa
    from gepa.adapters.default_adapter.default_adapter import DefaultAdapter, EvaluationResult
    from gepa.lm import LM
    from gepa.strategies.proposal_sampling import IndependentSampling

    def judge(data: Any, response: str) -> EvaluationResult:
        right = response.strip() == data["answer"]
        return EvaluationResult(score=float(right), feedback=_feedback(right, data["answer"]))

    train, validation = (
        [{"input": question, "answer": answer, "additional_context": {}} for question, answer in pairs]
        for pairs in _items(setting)
    )
    access = {"api_base": url, "api_key": "none"}
    adapter = DefaultAdapter(
        model="openai/world",
        evaluator=judge,
        max_litellm_workers=setting.concurrency,
        litellm_batch_completion_kwargs=access,
    )
    # The default adapter makes its model itself, and takes no number of retries.
    adapter._lm.num_retries = setting.retries
    knobs = {"max_metric_calls": _metric_calls(setting)}
    result = gepa.optimize(
        seed_candidate={"instructions": SEED_INSTRUCTION},
        trainset=train,
        valset=validation,
        adapter=adapter,
        reflection_lm=LM("openai/world", num_retries=setting.retries, **access),
        sampling_strategy=IndependentSampling(setting.proposals) if setting.proposals > 1 else None,
        logger=_Silent(),
        seed=setting.seed,
        **knobs,
    )
    best = result.best_candidate
    assert isinstance(best, dict)
    scores = result.val_aggregate_scores
    return Shipped(
        instruction=best["instructions"], demos=0, reported=scores[result.best_idx], began=scores[0], knobs=knobs
    )


def run_dspy_gepa(setting: Setting, url: str) -> Shipped:
    import dspy

    def metric(gold: Any, made: Any, trace: Any = None, name: Any = None, name_trace: Any = None) -> Any:
        right = made.answer.strip() == gold.answer
        return dspy.Prediction(score=float(right), feedback=_feedback(right, gold.answer))

    train, validation = _examples(setting)
    knobs = {"max_metric_calls": _metric_calls(setting)}
    model = _model(setting, url)
    optimiser = dspy.GEPA(
        metric=metric,
        reflection_lm=model,
        num_threads=setting.concurrency,
        track_stats=True,
        seed=setting.seed,
        **knobs,
    )
    with dspy.context(lm=model):
        made = optimiser.compile(_program(), trainset=train, valset=validation)
    scores = made.detailed_results.val_aggregate_scores
    return _shipped(made, reported=scores[made.detailed_results.best_idx], began=scores[0], knobs=knobs)


def run_mipro(setting: Setting, url: str) -> Shipped:
    import dspy

    train, validation = _examples(setting)
    candidates = 6
    # Four sets are bootstrapped, each by at most one pass over the training items; a proposal takes three calls; the
    # data are described ten items at a time and then summed up; the seed prompt is scored before the first trial.
    around = 4 * len(train) + 3 * candidates + math.ceil(len(train) / 10) + 1 + len(validation)
    knobs = {"num_candidates": candidates, "num_trials": (setting.budget - around) // len(validation)}
    if knobs["num_trials"] < 1:
        raise ValueError(f"the budget must be at least {around + len(validation)} calls")
    model = _model(setting, url)
    with dspy.context(lm=model):
        optimiser = dspy.MIPROv2(
            metric=_exact,
            auto=None,
            num_candidates=candidates,
            num_threads=setting.concurrency,
            seed=setting.seed,
        )
        made = optimiser.compile(
            _program(), trainset=train, valset=validation, num_trials=knobs["num_trials"], minibatch=False
        )
    began = made.trial_logs[1]["full_eval_score"] / 100
    return _shipped(made, reported=made.score / 100, began=began, knobs=knobs)


def run_simba(setting: Setting, url: str) -> Shipped:
    import dspy

    train, validation = _examples(setting)
    items = train + validation
    batch, candidates = setting.batch, 6
    step = batch * (2 * candidates + 1) + candidates + 1  # sampling, candidates tried, and advice
    steps = 0
    while (steps + 1) * step + (min(steps + 1, candidates) + 1) * len(items) <= setting.budget:
        steps += 1
    if not steps:
        raise ValueError(f"the budget must be at least {step + 2 * len(items)} calls")
    knobs = {"bsize": batch, "num_candidates": candidates, "max_steps": steps}
    model = _model(setting, url)
    with dspy.context(lm=model):
        optimiser = dspy.SIMBA(metric=_exact, num_threads=setting.concurrency, **knobs)
        made = optimiser.compile(_program(), trainset=items, seed=setting.seed)
    tried = made.candidate_programs
    same = [one["score"] for one in tried if _is_seed(one["program"])]
    return _shipped(made, reported=tried[0]["score"], began=same[0] if len(same) == 1 else None, knobs=knobs)


LIBRARIES: dict[str, Callable[[Setting, str], Shipped]] = {
    "gepa": run_gepa,
    "dspy-gepa": run_dspy_gepa,
    "mipro": run_mipro,
    "simba": run_simba,
}


def _items(setting: Setting) -> tuple[Pairs, Pairs]:
    everything = [item(number) for number in range(setting.train + setting.validation)]
    return everything[: setting.train], everything[setting.train :]


def _examples(setting: Setting) -> tuple[list[Any], list[Any]]:
    import dspy

    train, validation = (
        [dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in pairs]
        for pairs in _items(setting)
    )
    return train, validation


def _metric_calls(setting: Setting) -> int:
    last = setting.proposals * (2 * 3 + 1) + setting.validation
    allowed = (setting.budget - last) * 6 // 7
    if allowed <= setting.validation:
        raise ValueError(f"the budget must be more than {setting.validation * 7 // 6 + last} calls")
    return allowed


def _model(setting: Setting, url: str) -> Any:
    import dspy

    return dspy.LM(
        "openai/world",
        api_base=url,
        api_key="none",
        cache=False,
        temperature=1.0,
        max_tokens=2_000,
        num_retries=setting.retries,
    )


def _program() -> Any:
    import dspy

    signature = dspy.Signature("question -> answer", SEED_INSTRUCTION)
    return dspy.Predict(signature)


def _exact(gold: Any, made: Any, trace: Any = None) -> bool:
    return bool(made.answer.strip() == gold.answer)


def _feedback(right: bool, answer: str) -> str:
    return "Correct." if right else f"Wrong. The right answer is {answer}."


def _is_seed(program: Any) -> bool:
    return all(one.signature.instructions == SEED_INSTRUCTION and not one.demos for one in program.predictors())


def _shipped(program: Any, *, reported: float, began: float | None, knobs: dict[str, int]) -> Shipped:
    (predictor,) = program.predictors()
    return Shipped(
        instruction=predictor.signature.instructions,
        demos=len(predictor.demos),
        reported=reported,
        began=began,
        knobs=knobs,
    )


class _Silent:
    def log(self, message: str) -> None:
        """gepa's logger prints every step."""


def one(setting: Setting) -> dict[str, Any]:
    """One run as a record. Whatever the library raises is kept in it."""
    began_s = time.monotonic()
    record = asdict(setting) | {"error": None}
    world = {"base_rate": setting.base_rate, "effect": setting.effect, "find_rate": setting.find_rate}
    seed = f"{setting.library}/{setting.base_rate}/{setting.effect}/{setting.seed}"
    with Endpoint(**world, seed=seed, latency_s=setting.latency_s) as endpoint:
        noise = io.StringIO()  # progress bars and prints of the libraries; their last words are kept if a run fails
        try:
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                shipped = LIBRARIES[setting.library](setting, endpoint.url)
            record |= asdict(shipped) | {
                "changed": shipped.instruction != SEED_INSTRUCTION or shipped.demos > 0,
                "has_rule": has_rule(shipped.instruction),
                "truth": endpoint.world.accuracy(shipped.instruction),
            }
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
            record["trace"] = traceback.format_exc()[-2_000:]
            record["said"] = noise.getvalue()[-2_000:]
        record |= {
            "calls": sum(endpoint.calls.values()),
            "calls_by_role": dict(endpoint.calls),
            "peak_in_flight": endpoint.peak,
            "refused": endpoint.refused[:3],
            "took_s": round(time.monotonic() - began_s, 2),
        }
    return record


def prepare() -> None:
    """Sets a worker up before a library is imported: no caches, no telemetry, no price list from the network."""
    os.environ |= {
        "DSPY_CACHEDIR": tempfile.mkdtemp(prefix="peers-cache-"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "none",
    }
    logging.disable(logging.WARNING)
    import dspy
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share. Source: Wilson (1927)."""
    if not of:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf(0.975)
    centre = (hits + z * z / 2) / (of + z * z)
    reach = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def table(records: Iterable[dict[str, Any]]) -> str:
    """One line for each library and setting, in the order of the module's docstring."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["effect"], record["base_rate"], list(LIBRARIES).index(record["library"])].append(record)
    lines = [
        f"{'library':<10} {'base':>5} {'effect':>6} {'runs':>4} {'failed':>6}  {'changed':<21} {'began':>6} "
        f"{'reported':>14} {'truth':>6} {'rule':>6} {'calls':>12}"
    ]
    for (effect, base_rate, _), group in sorted(groups.items()):
        good = [record for record in group if not record["error"]]
        start = (
            f"{group[0]['library']:<10} {base_rate:>5.2f} {effect:>6.2f} {len(group):>4} {len(group) - len(good):>6}"
        )
        if not good:
            lines.append(f"{start}  {group[0]['error']}")
            continue
        changed = sum(record["changed"] for record in good)
        low, high = wilson(changed, len(good))
        reported = [record["reported"] for record in good]
        error = statistics.stdev(reported) / math.sqrt(len(good)) if len(good) > 1 else math.nan
        began = [record["began"] for record in good if record["began"] is not None]
        calls = [record["calls"] for record in good]
        rule = f"{sum(record['has_rule'] for record in good)}/{len(good)}" if effect else "-"
        lines.append(
            f"{start}  {changed / len(good):>4.0%} [{low:>4.0%}, {high:>4.0%}]    "
            f"{(f'{statistics.mean(began):.3f}' if began else '-'):>6} "
            f"{statistics.mean(reported):>6.3f} ±{error:.3f} {statistics.mean(r['truth'] for r in good):>6.3f} "
            f"{rule:>6} {statistics.mean(calls):>5.0f}, {max(calls):>4}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--base-rates", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--effect", type=float, default=0.0, help="what the true rule is worth; 0 is the null task")
    parser.add_argument("--find-rate", type=float, default=0.5, help="share of proposals that hold the rule")
    parser.add_argument("--budget", type=int, default=800, help="calls of one run, policy and learning together")
    parser.add_argument("--train", type=int, default=30)
    parser.add_argument("--validation", type=int, default=30)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further run has the next")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each in a process")
    parser.add_argument("--json", type=Path, help="where every run is added as a line")
    parser.add_argument("--table", nargs="+", type=Path, help="print the table of these files instead")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(line) for path in asked.table for line in path.read_text().splitlines()))
        return
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(
        f"budget {asked.budget} calls, {asked.train} train and {asked.validation} validation items, "
        f"concurrency {asked.concurrency}, seeds {asked.seed} to {asked.seed + asked.runs - 1}",
        flush=True,
    )
    blank = Setting(
        library="",
        base_rate=0.0,
        effect=asked.effect,
        find_rate=asked.find_rate,
        run=0,
        seed=0,
        budget=asked.budget,
        train=asked.train,
        validation=asked.validation,
        concurrency=asked.concurrency,
        latency_s=asked.latency_s,
    )
    # Seeds outermost: a benchmark that is interrupted has every library at the same number of runs.
    settings = [
        replace(blank, library=library, base_rate=base_rate, run=run, seed=asked.seed + run)
        for run in range(asked.runs)
        for base_rate in asked.base_rates
        for library in asked.libraries
    ]
    records: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.jobs, mp_context=spawn, initializer=prepare) as pool:
        for done in as_completed([pool.submit(one, setting) for setting in settings]):
            record = done.result() | {"versions": versions}
            records.append(record)
            if record["error"]:
                print(f"failed: {record['library']} seed {record['seed']}: {record['error']}", flush=True)
            if asked.json:
                with asked.json.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()

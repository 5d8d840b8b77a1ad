"""Evaluate and compare: what a prior is worth on tasks that nothing was learned from.

Every arm attempts every task k times. Arms differ in nothing but the prior, and are interleaved task by task, so that
whatever drifts at the endpoint drifts for all of them. A mean counts scored attempts only; unscored and failed ones
stand beside it. Beside every score stands the best constant answer: what an agent would get that says the same to all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprior.agents.base import Agent
from tokenprior.attempt import attempt
from tokenprior.config import EvaluateConfig
from tokenprior.errors import ConfigError
from tokenprior.flow import all_of
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.rollout import Rollout, Usage
from tokenprior.statistics import Interval, bootstrap_mean
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier

# With fewer tasks that differ, no exact sign-flip test reaches 0.05 on both sides, whatever a bootstrap says.
ENOUGH = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """What one arm scored.

    Attributes:
        arm: its name.
        library_version: content hash of its library.
        experiences: how many are in its prior.
        omitted: how many did not fit `prior_tokens`.
        score: mean@k with its interval over tasks; `None` if no attempt was scored.
        scored, unscored: attempts.
        failed: attempts by kind of failure.
        cut_off: finished attempts that ended at their token limit.
        usage: tokens and money of the arm.
        latency_s: mean seconds of work of an attempt.
        tasks: by task id, the rewards of its attempts; `None` for an unscored or failed one.
    """

    arm: str
    library_version: str
    experiences: int
    omitted: int
    score: Interval | None
    scored: int
    unscored: int
    failed: dict[str, int]
    cut_off: int
    usage: Usage
    latency_s: float
    tasks: dict[str, tuple[float | None, ...]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "library_version": self.library_version,
            "experiences": self.experiences,
            "omitted": self.omitted,
            "score": _interval_json(self.score),
            "scored": self.scored,
            "unscored": self.unscored,
            "failed": self.failed,
            "cut_off": self.cut_off,
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "cost_usd": self.usage.cost_usd,
            "latency_s": self.latency_s,
            "tasks": {task: list(rewards) for task, rewards in self.tasks.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One arm against the first, paired by task.

    Attributes:
        gain: mean of the per-task differences, with its interval; `None` if no task was scored in both.
        wins, losses, ties: tasks by the sign of their difference.
        missing: tasks left out, because no attempt of one of the arms was scored.
    """

    arm: str
    baseline: str
    gain: Interval | None
    wins: int
    losses: int
    ties: int
    missing: int = 0

    @property
    def verdict(self) -> str:
        """One sentence: it helps, it hurts, or there is not enough evidence."""
        if self.gain is None or self.gain.low is None or self.gain.high is None:
            return f"{self.arm} against {self.baseline}: nothing to compare."
        words = f"{self.gain.mean:+.3f} [{self.gain.low:+.3f}, {self.gain.high:+.3f}]"
        counts = f"{self.wins} tasks better, {self.losses} worse, {self.ties} equal"
        if self.missing:
            counts += f", {self.missing} left out, unscored in one arm"
        if self.wins + self.losses < ENOUGH:
            return f"Too few tasks differ to tell {self.arm} from {self.baseline}: {words} ({counts})."
        if self.gain.low > 0:
            return f"{self.arm} helps: {words} against {self.baseline} ({counts})."
        if self.gain.high < 0:
            return f"{self.arm} hurts: {words} against {self.baseline} ({counts})."
        return f"Not enough evidence that {self.arm} differs from {self.baseline}: {words} ({counts})."


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Arms side by side; the first is what the others are held against.

    Attributes:
        constant: the best constant answer and the share of tasks it would get right, where tasks have plain answers.
    """

    arms: tuple[ArmReport, ...]
    differences: tuple[Difference, ...]
    constant: tuple[str, float] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "arms": [arm.to_json() for arm in self.arms],
            "differences": [
                {
                    "arm": d.arm,
                    "baseline": d.baseline,
                    "gain": _interval_json(d.gain),
                    "wins": d.wins,
                    "losses": d.losses,
                    "ties": d.ties,
                    "missing": d.missing,
                    "verdict": d.verdict,
                }
                for d in self.differences
            ],
            "best_constant_answer": None if self.constant is None else list(self.constant),
        }


async def evaluate(
    tasks: Sequence[Task],
    library: Library,
    *,
    agent: Agent,
    verifier: Verifier,
    record: RunStore,
    config: EvaluateConfig | None = None,
    tracker: Tracker | None = None,
) -> ArmReport:
    """The score of one library: `compare` with a single arm."""
    made = await compare(
        tasks,
        {"library": library},
        agent=agent,
        verifier=verifier,
        record=record,
        config=config,
        tracker=tracker,
    )
    return made.arms[0]


async def compare(
    tasks: Sequence[Task],
    arms: Mapping[str, Library],
    *,
    agent: Agent,
    verifier: Verifier,
    record: RunStore,
    config: EvaluateConfig | None = None,
    tracker: Tracker | None = None,
) -> Comparison:
    """Score libraries side by side on the same tasks.

    Args:
        tasks: held-out ones, for a figure that means something.
        arms: libraries by name; the first is the baseline, an empty one is "no prior".
        agent: at its evaluation temperature.

    Raises:
        ConfigError: no tasks, or no arms.
        BudgetReached, ModelError, StoreError: what was done is kept, the same call goes on.
    """
    config = config or EvaluateConfig()
    if not tasks or not arms:
        raise ConfigError("compare: no tasks" if arms else "compare: no arms")
    tracker = tracker or Tracker(None, record.spent)
    priors = {arm: TokenPrior.of(library, budget_tokens=config.prior_tokens) for arm, library in arms.items()}
    # Arms that put the same words before a task are one experiment: made once, and never different by chance.
    distinct = {prior.fingerprint: prior for prior in priors.values()}
    tracker.phase("evaluation", total=len(tasks) * len(distinct) * config.k)

    async def one(task: Task, prior: TokenPrior) -> Group:
        return await attempt(
            task,
            prior,
            agent=agent,
            verifier=verifier,
            shelf=record,
            group_size=config.k,
            phase="evaluate",
            on_rollout=tracker.rollout,
        )

    made = await all_of(one(task, prior) for task in tasks for prior in distinct.values())
    groups = {fingerprint: made[place :: len(distinct)] for place, fingerprint in enumerate(distinct)}
    reports: list[ArmReport] = []
    for arm, library in arms.items():
        report = _arm(arm, library, priors[arm], groups[priors[arm].fingerprint], config)
        await record.save_evaluation(arm, library.version, report.to_json())
        reports.append(report)
    differences = tuple(paired(report, reports[0], config) for report in reports[1:])
    return Comparison(arms=tuple(reports), differences=differences, constant=best_constant(tasks))


def _arm(arm: str, library: Library, prior: TokenPrior, groups: Sequence[Group], config: EvaluateConfig) -> ArmReport:
    means = [group.mean for group in groups]
    known = [mean for mean in means if mean is not None]
    rollouts: list[Rollout] = [rollout for group in groups for rollout in group.rollouts]
    finished = [rollout for rollout in rollouts if rollout.failure is None]
    usage = Usage()
    for rollout in rollouts:
        usage += rollout.usage
    return ArmReport(
        arm=arm,
        library_version=library.version,
        experiences=len(prior.included),
        omitted=len(prior.omitted),
        score=bootstrap_mean(known, resamples=config.resamples, seed=config.seed) if known else None,
        scored=sum(len(group.rewards_G) for group in groups),
        unscored=sum(group.unscored for group in groups),
        failed=dict(sorted(Counter(r.failure.kind for r in rollouts if r.failure).items())),
        cut_off=sum(rollout.stop.value == "length" for rollout in finished),
        usage=usage,
        latency_s=sum(rollout.latency_s for rollout in finished) / len(finished) if finished else 0.0,
        tasks={group.task.id: tuple(reward.value for reward in group.rewards) for group in groups},
    )


def paired(report: ArmReport, baseline: ArmReport, config: EvaluateConfig) -> Difference:
    """One arm against another over the tasks that both have scored."""
    differences: list[float] = []
    for task, rewards in report.tasks.items():
        here = [reward for reward in rewards if reward is not None]
        there = [reward for reward in baseline.tasks.get(task, ()) if reward is not None]
        if here and there:
            differences.append(sum(here) / len(here) - sum(there) / len(there))
    gain = bootstrap_mean(differences, resamples=config.resamples, seed=config.seed) if differences else None
    return Difference(
        arm=report.arm,
        baseline=baseline.arm,
        gain=gain,
        wins=sum(difference > 0 for difference in differences),
        losses=sum(difference < 0 for difference in differences),
        ties=sum(difference == 0 for difference in differences),
        missing=len(report.tasks) - len(differences),
    )


def best_constant(tasks: Sequence[Task]) -> tuple[str, float] | None:
    """The one answer that is accepted for most tasks, and for which share; `None` if no task has a plain answer."""
    counts = Counter(answer for task in tasks for answer in set(task.accepted))
    if not counts:
        return None
    answer, count = max(counts.items(), key=lambda pair: (pair[1], pair[0]))
    return answer, count / len(tasks)


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "tasks": interval.n}

"""Arm: what one library scored on the tasks of a comparison, and the best constant answer beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Usage
from tokenprior.statistics import Interval, bootstrap_mean, pass_at
from tokenprior.task import Task
from tokenprior.text import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How a comparison is made, as far as its statistics depend on it.

    Attributes:
        k: attempts for each task and arm.
        success_at: the reward from which an attempt counts as a success in pass@k.
        resamples: of the bootstrap over tasks.
        seed: of everything random in the statistics.
        reward_range: lowest and highest reward, where the comparison may stop early; `None` where all tasks are done.
    """

    k: int = 1
    success_at: float = 1.0
    resamples: int = 10_000
    seed: int = 0
    reward_range: tuple[float, float] | None = None

    @property
    def difference_range(self) -> tuple[float, float]:
        """The lowest and highest difference that two arms can have on a task; for a design that may stop early."""
        assert self.reward_range is not None, "only a design that may stop early has bounds"
        low, high = self.reward_range
        return low - high, high - low

    @property
    def passes(self) -> tuple[int, ...]:
        """For which j pass@j is reported: powers of two up to k, and k; none for a single attempt."""
        powers = {2**power for power in range(self.k.bit_length()) if 2**power <= self.k}
        return tuple(sorted(powers | {self.k})) if self.k > 1 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReport:
    """What one arm scored.

    Attributes:
        arm: its name.
        library_version: content hash of its library.
        prior: hash of the words that stand before its tasks; arms of equal words are one experiment.
        experiences: how many are in its prior.
        omitted: how many did not fit `prior.tokens`.
        score: mean@k with its interval over tasks; `None` if no attempt was scored.
        passes: by j, the chance that the best of j attempts is a success (unbiased), over the tasks that have at least
            j scored attempts; empty where k is 1.
        commonest: the answer the verifier read most often, cut to one line, and its share of the scored attempts;
            `None` if it read none.
        scored, unscored: attempts.
        failed: attempts by kind of failure.
        cut_off: finished attempts that ended at a limit: of the tokens of a reply, or of what an attempt may take.
        usage: tokens and money of the arm.
        latency_s: mean seconds of work of an attempt.
        tasks: by task id, the rewards of its attempts; `None` for an unscored or failed one.
    """

    arm: str
    library_version: str
    prior: str
    experiences: int
    omitted: int
    score: Interval | None
    passes: dict[int, Interval] = field(default_factory=dict)
    commonest: tuple[str, float] | None = None
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
            "prior": self.prior,
            "experiences": self.experiences,
            "omitted": self.omitted,
            "score": interval_json(self.score),
            "pass_at": {str(j): interval_json(interval) for j, interval in self.passes.items()},
            "commonest_answer": None if self.commonest is None else list(self.commonest),
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


def report_arm(arm: str, library: Library, prior: TokenPrior, groups: Sequence[Group], design: Design) -> ArmReport:
    """The figures of one arm over its groups, one a task."""
    means = [group.mean for group in groups if group.mean is not None]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    finished = [rollout for rollout in rollouts if rollout.failure is None]
    usage = Usage()
    for rollout in rollouts:
        usage += rollout.usage
    return ArmReport(
        arm=arm,
        library_version=library.version,
        prior=prior.fingerprint,
        experiences=len(prior.included),
        omitted=len(prior.omitted),
        score=bootstrap_mean(means, resamples=design.resamples, seed=design.seed) if means else None,
        passes=_passes(groups, design),
        commonest=_commonest(groups),
        scored=sum(len(group.rewards_G) for group in groups),
        unscored=sum(group.unscored for group in groups),
        failed=dict(sorted(Counter(r.failure.kind for r in rollouts if r.failure).items())),
        cut_off=sum(rollout.stop.value in ("length", "limit") for rollout in finished),
        usage=usage,
        latency_s=sum(rollout.latency_s for rollout in finished) / len(finished) if finished else 0.0,
        tasks=rewards_of(groups),
    )


def rewards_of(groups: Sequence[Group]) -> dict[str, tuple[float | None, ...]]:
    """By task id, the rewards of its attempts."""
    return {group.task.id: tuple(reward.value for reward in group.rewards) for group in groups}


def _passes(groups: Sequence[Group], design: Design) -> dict[int, Interval]:
    made: dict[int, Interval] = {}
    for j in design.passes:
        chances = [
            pass_at(j, attempts=len(rewards), successes=sum(reward >= design.success_at for reward in rewards))
            for rewards in (group.rewards_G for group in groups)
            if len(rewards) >= j
        ]
        if chances:
            made[j] = bootstrap_mean(chances, resamples=design.resamples, seed=design.seed)
    return made


def _commonest(groups: Sequence[Group]) -> tuple[str, float] | None:
    scored = [reward for group in groups for _, reward in group.scored]
    counts = Counter(" ".join(reward.extracted.split()) for reward in scored if reward.extracted is not None)
    if not counts:
        return None
    answer, count = max(counts.items(), key=lambda pair: (pair[1], pair[0]))
    return shorten(answer, 60), count / len(scored)


def best_constant(tasks: Sequence[Task]) -> tuple[str, float] | None:
    """The one answer that is accepted for most tasks, and for which share; `None` if no task has a plain answer."""
    counts = Counter(answer for task in tasks for answer in set(task.accepted))
    if not counts:
        return None
    answer, count = max(counts.items(), key=lambda pair: (pair[1], pair[0]))
    return answer, count / len(tasks)


def interval_json(interval: Interval | None) -> dict[str, Any] | None:
    """An interval as a JSON value; `tasks` is how many it is over."""
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "tasks": interval.n}

"""Learn: the loop over steps. Streaming, resumable, within its budget.

Order of events of a step: every task's group flows on its own from rollouts to rewards to its advantage while others
are still rolling out; the one thing that waits for all is the library update. The step is then written in one
transaction. A finished step is never done again: the same call with the same run goes on behind it.

Determinism: groups are taken in the order of `Step.tasks` whatever the order of their ends, and everything random
comes from the seed. So one seed and a deterministic model give one library, byte for byte, at any concurrency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenprior.advantage import Advantage, LeakGuard
from tokenprior.agents.base import Agent
from tokenprior.attempt import attempt
from tokenprior.config import LearnConfig
from tokenprior.contrast import bundles, contrast
from tokenprior.epoch import Step, plan_steps
from tokenprior.errors import BudgetReached, ConfigError, ModelError, TokenpriorError
from tokenprior.flow import all_of
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import Model
from tokenprior.prior import TokenPrior
from tokenprior.progress import Progress, Tracker
from tokenprior.revise import Revision, revise
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What learning brought.

    Attributes:
        library: after the last finished step; what was imported, or empty, if none is finished.
        steps: one report a finished step, see `docs/formats.md`.
        stopped: why it ended before its last step, or `None`. The same call goes on.
    """

    library: Library
    steps: tuple[dict[str, Any], ...]
    stopped: str | None = None


async def learn(
    tasks: Sequence[Task],
    *,
    agent: Agent,
    verifier: Verifier,
    model: Model,
    record: RunStore,
    config: LearnConfig | None = None,
    start: Library | None = None,
    tracker: Tracker | None = None,
) -> LearnResult:
    """Learn an experience library.

    Args:
        tasks: to practise on. Held-out and gate tasks do not belong here.
        agent: the frozen policy, at its learning temperature.
        verifier: rewards attempts.
        model: the learning model.
        record: the run in the store; nothing that it holds is paid for again.
        start: the library to begin with; empty by default.
        tracker: is told of the progress.

    Raises:
        ConfigError: there is nothing to practise on.
        ModelError: an endpoint refuses for good. What was done is kept.
        StoreError: the store cannot be written.
    """
    config = (config or LearnConfig()).resolved()
    if not tasks:
        raise ConfigError("learn: no tasks to practise on")
    tracker = tracker or Tracker(None, record.spent)
    library = start or Library()
    # Without ground truth the answers may not even choose which lessons stay.
    guard = LeakGuard(tasks if config.ground_truth else [replace(task, answer=None) for task in tasks])
    steps = plan_steps(tasks, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    reports: list[dict[str, Any]] = []
    for step in steps:
        if (finished := await record.finished_step(step.index)) is not None:
            library, report = finished
            reports.append(report)
            continue
        tracker.now = Progress(step=step.index + 1, steps=len(steps), experiences=len(library))
        try:
            groups, advantages = await _groups(step, library, agent, verifier, model, record, config, guard, tracker)
            _require_progress(groups, advantages, config)
            tracker.change(phase="library update")
            revision = await revise(
                library, advantages, model=model, config=config, guard=guard, run=record.run, step=step.index
            )
        except BudgetReached as reached:
            return LearnResult(library=library, steps=tuple(reports), stopped=str(reached))
        report = step_report(step, groups, advantages, revision, config)
        await record.save_step(step.index, step.epoch, revision.applied, report)
        library = revision.applied.library
        reports.append(report)
        tracker.change(experiences=len(library))
    return LearnResult(library=library, steps=tuple(reports))


async def _groups(
    step: Step,
    library: Library,
    agent: Agent,
    verifier: Verifier,
    model: Model,
    record: RunStore,
    config: LearnConfig,
    guard: LeakGuard,
    tracker: Tracker,
) -> tuple[list[Group], list[Advantage]]:
    prior = TokenPrior.of(library, budget_tokens=config.prior_tokens)
    tracker.phase("rollouts", total=len(step.tasks) * config.group_size)

    async def attempted(task: Task) -> Group:
        return await attempt(
            task,
            prior,
            agent=agent,
            verifier=verifier,
            shelf=record,
            group_size=config.group_size,
            step=step.index,
            on_rollout=tracker.rollout,
        )

    async def flow(tasks: Sequence[Task]) -> tuple[list[Group], list[Advantage]]:
        groups = await all_of(attempted(task) for task in tasks)
        advantages = await contrast(groups, library, model=model, config=config, guard=guard, step=step.index)
        for advantage in advantages:
            await record.save_advantage(step.index, advantage)
        lessons = sum(len(advantage.lessons) for advantage in advantages)
        tracker.change(groups=tracker.now.groups + len(groups), lessons=tracker.now.lessons + lessons)
        return groups, advantages

    flowed = await all_of(flow(bundle) for bundle in bundles(step.tasks, config))
    groups = [group for bundle, _ in flowed for group in bundle]
    return groups, [advantage for _, advantages in flowed for advantage in advantages]


# How a drop begins whose cause is the way to the learning model, not what was asked of it (`ask.ask` writes it).
AWAY = ("unreachable:", "connection:", "rate-limit:", "timeout:", "garbled:", "http-5")


def _require_progress(groups: Sequence[Group], advantages: Sequence[Advantage], config: LearnConfig) -> None:
    """A step in which no call came through is an outage, not a result: it is not recorded, and tried again."""
    failures = Counter(r.failure.kind for group in groups for r in group.rollouts if r.failure)
    if sum(failures.values()) == sum(len(group.rollouts) for group in groups):
        first = next(r.failure for group in groups for r in group.rollouts if r.failure)
        raise ModelError(
            f"every attempt of the step failed ({', '.join(f'{n} {kind}' for kind, n in sorted(failures.items()))}; "
            f"the first: {first.detail}): put the endpoint right, and the same command goes on"
        )
    unscored = [reward.reason for group in groups for reward in group.rewards if not reward.is_scored]
    if config.ground_truth and len(unscored) == sum(len(group.rollouts) for group in groups):
        raise TokenpriorError(
            f"no attempt of the step could be judged ({Counter(unscored).most_common(1)[0][0]}): put the verifier "
            "right and the same command goes on, or set learn.ground_truth: false to learn without it"
        )
    reasons = [drop.reason for advantage in advantages for drop in advantage.drops]
    away = bool(reasons) and all(reason.startswith(AWAY) for reason in reasons)
    if away and not any(advantage.usage.calls for advantage in advantages):
        raise ModelError(
            f"no call to the learning model came through ({reasons[0]}): the same command goes on from here"
        )


def step_report(
    step: Step, groups: Sequence[Group], advantages: Sequence[Advantage], revision: Revision, config: LearnConfig
) -> dict[str, Any]:
    """The figures of a step as a JSON value. Failed and unscored attempts are counted apart from the mean."""
    values = [value for group in groups for value in group.rewards_G]
    kinds = Counter(g.kind(success_at=config.success_at, threshold=config.contrast_threshold) for g in groups)
    failures = Counter(r.failure.kind for group in groups for r in group.rollouts if r.failure)
    drops = Counter(_reason_class(drop.reason) for advantage in advantages for drop in advantage.drops)
    drops.update(_reason_class(drop.reason) for drop in revision.drops)
    applied = revision.applied
    return {
        "step": step.index,
        "epoch": step.epoch,
        "tasks": len(groups),
        "rollouts": sum(len(group.rollouts) for group in groups),
        "mean": sum(values) / len(values) if values else None,
        "scored": len(values),
        "unscored": sum(group.unscored for group in groups),
        "failed": dict(sorted(failures.items())),
        "groups": dict(sorted(kinds.items())),
        "lessons": sum(len(advantage.lessons) for advantage in advantages),
        "operations": dict(sorted(Counter(type(operation).__name__ for operation in applied.done).items())),
        "refused": dict(sorted(Counter(_reason_class(refused.reason) for refused in applied.refused).items())),
        "drops": dict(sorted(drops.items())),
        "experiences": len(applied.library),
        "library_version": applied.library.version,
    }


def _reason_class(reason: str) -> str:
    """Reasons are counted by their kind: what stands behind a colon is the single case."""
    return reason.split(":", 1)[0][:80]

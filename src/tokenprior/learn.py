"""Learn: the loop over steps. Streaming, resumable, within its budget.

Order of events of a step: its tasks are practised, each group flowing on its own to its advantage (`practise.py`); the
one thing that waits for all is the library update. What ships is attempted at the gate meanwhile, if it has to be.
Lessons that were measured to hurt are deleted first. The candidate goes through the gate, and the step is written in
one transaction. A finished step is never done again: the same call with the same run goes on behind it.

Two libraries are carried along: what learning goes on from, and what ships. Without a gate they are one, as in the
paper.

Determinism: groups are taken in the order of `Step.tasks` whatever the order of their ends, and everything random
comes from the seed. So one seed and a deterministic model give one library, byte for byte, at any concurrency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tokenprior.adaptive import GroupPlan, Visit
from tokenprior.advantage import Advantage, LeakGuard
from tokenprior.agents.base import Agent, PastAgent
from tokenprior.config import LearnConfig
from tokenprior.effects import measure, observed
from tokenprior.epoch import Step, plan_steps
from tokenprior.errors import BudgetReached, ConfigError, ModelError, TokenpriorError
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import Model
from tokenprior.operation import Delete
from tokenprior.practise import practise
from tokenprior.progress import Progress, Tracker
from tokenprior.prove import Baseline, Gate, allowance, prove
from tokenprior.revise import Revision, revise
from tokenprior.rollout import StopReason
from tokenprior.store.record import RunStore, StepEnd
from tokenprior.task import Task
from tokenprior.trial import Trial
from tokenprior.verifiers.base import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnResult:
    """What learning brought.

    Attributes:
        library: what ships after the last finished step; what was imported, or empty, if none is finished.
        learning: what learning goes on from: the same, or what is not proven yet.
        steps: one report a finished step, see `docs/formats.md`.
        stopped: why it ended before its last step, or `None`. The same call goes on.
    """

    library: Library
    learning: Library
    steps: tuple[dict[str, Any], ...]
    stopped: str | None = None

    def _repr_html_(self) -> str:
        """For a notebook."""
        from tokenprior.display import learned_html

        return learned_html(self.library, self.learning, self.steps, self.stopped)


async def learn(
    tasks: Sequence[Task],
    *,
    agent: Agent,
    verifier: Verifier,
    model: Model,
    record: RunStore,
    config: LearnConfig | None = None,
    gate: Gate | None = None,
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
        gate: what candidates are tried on, unless `config.gate` is `none`.
        start: the library to begin with; empty by default. It ships until something better is proven.
        tracker: is told of the progress.

    Raises:
        ConfigError: there is nothing to practise on, or nothing to try candidates on; or attempts of logs are to be
            adaptive.
        ModelError: an endpoint refuses for good. What was done is kept.
        StoreError: the store cannot be written.
    """
    config = (config or LearnConfig()).resolved()
    require_tasks(tasks, gate.tasks if gate else (), config)
    plan = config.group_plan
    if plan.adapts and isinstance(agent, PastAgent):
        raise ConfigError("learn.adaptive says which attempts are made, and attempts of logs are made: leave it out")
    tracker = tracker or Tracker(None, record.spent)
    # Without ground truth the answers may not even choose which lessons stay.
    guard = LeakGuard(tasks if config.ground_truth else [replace(task, answer=None) for task in tasks])
    steps = plan_steps(tasks, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    if start is not None:
        await record.save_start(start)
    loop = _Loop(agent, verifier, model, record, config, guard, gate, tracker)
    stands = StepEnd(library=start or Library(), shipped=start or Library(), report={})
    ends: list[StepEnd] = []
    visits: dict[str, Visit] = {}
    stopped: str | None = None
    for step in steps:
        end = await record.finished_step(step.index)
        if end is None:
            tracker.now = Progress(step=step.index + 1, steps=len(steps), experiences=len(stands.library))
            try:
                end = await loop.take(step, stands, ends, visits, steps_left=len(steps) - step.index)
            except BudgetReached as reached:
                stopped = str(reached)
                break
            tracker.change(experiences=len(end.library))
        stands = end
        ends.append(end)
        if plan.looks_back:
            made = await record.shelf.rewards("rollout", step.index)
            visits |= {task: Visit(epoch=step.epoch, kind=plan.outcome(values)) for task, values in made.items()}
    reports = tuple(end.report for end in ends)
    return LearnResult(library=stands.shipped, learning=stands.library, steps=reports, stopped=stopped)


def require_tasks(tasks: Sequence[Task], gate_tasks: Sequence[Task], config: LearnConfig) -> None:
    """Raises ConfigError if there is nothing to practise on, or nothing to try candidates on."""
    if not tasks:
        raise ConfigError("learn: no tasks to practise on")
    require_gate_tasks(gate_tasks, config)


def require_gate_tasks(gate_tasks: Sequence[Task], config: LearnConfig) -> None:
    """Raises ConfigError if there is nothing to try candidates on, and they are to be tried."""
    if config.gate != "none" and not gate_tasks:
        raise ConfigError(
            f"learn.gate is {config.gate!r}, but there are no gate tasks: set tasks.split.gate (about 40 of them), or "
            "learn.gate: none to ship whatever is learned, as the paper does"
        )


@dataclass(frozen=True, slots=True)
class _Loop:
    """What all steps of a run share."""

    agent: Agent
    verifier: Verifier
    model: Model
    record: RunStore
    config: LearnConfig
    guard: LeakGuard
    gate: Gate | None
    tracker: Tracker

    async def take(
        self, step: Step, stands: StepEnd, ends: Sequence[StepEnd], visits: Mapping[str, Visit], *, steps_left: int
    ) -> StepEnd:
        """One step, from where the run stands to where it stands then."""
        figures = [figure for end in ends for figure in end.report.get("trials", ())]
        taken = partial(self._taken, step, stands, ends, visits, figures, steps_left)
        was_tried = any(stands.shipped.version in (figure["against"], figure["candidate"]) for figure in figures)
        if self.gate is None or self.config.gate == "none" or was_tried:
            return await taken(None)
        async with Baseline(
            stands.shipped, gate=self.gate, verifier=self.verifier, record=self.record, config=self.config
        ) as baseline:
            return await taken(baseline)

    async def _taken(
        self,
        step: Step,
        stands: StepEnd,
        ends: Sequence[StepEnd],
        visits: Mapping[str, Visit],
        figures: Sequence[dict[str, Any]],
        steps_left: int,
        baseline: Baseline | None,
    ) -> StepEnd:
        config, run, plan = self.config, self.record.run, self.config.group_plan
        resting = plan.resting([task.id for task in step.tasks], visits, step.epoch)
        step = replace(step, tasks=tuple(task for task in step.tasks if task.id not in resting))
        groups, advantages = await practise(
            step,
            stands.library,
            agent=self.agent,
            verifier=self.verifier,
            model=self.model,
            record=self.record,
            config=config,
            guard=self.guard,
            tracker=self.tracker,
            visits=visits,
            on_lesson=baseline.begin if baseline else None,
        )
        _require_progress(groups, advantages, config)
        seen = observed([plan.measured(group) for group in groups], stands.library, step.index)
        self.tracker.change(phase="library update")
        effects = measure(stands.library, [*(o for end in ends for o in end.observations), *seen])
        known = stands.library.with_effects(effects)
        harmful = [Delete(id=i, reason=f"measured: {effect}") for i, effect in effects.items() if effect.hurts]
        pruned = known.only([e.id for e in known if e.id not in effects or not effects[e.id].hurts])
        revision = await revise(
            pruned,
            advantages,
            model=self.model,
            config=config,
            guard=self.guard,
            run=run,
            step=step.index,
        )
        applied = replace(revision.applied, done=(*harmful, *revision.applied.done))
        trials = await self._trials(applied.library, stands.shipped, figures, steps_left, baseline)
        library, shipped = _outcome(applied.library, pruned, stands.shipped, trials, gated=config.gate != "none")
        if config.prior.tokens is None and not config.prior.core:
            # Where worth decides which lessons find room, what ships keeps the worth that it was tried with.
            shipped = shipped.refreshed(known.refreshed(applied.library))
        report = step_report(step, groups, advantages, replace(revision, applied=applied), config)
        if plan.adapts:
            report["adaptive"] = {
                "resting": dict(sorted(Counter(resting.values()).items())),
                "spared": sum(max(0, plan.size - len(group.rollouts)) for group in groups),
                "added": sum(max(0, len(group.rollouts) - plan.size) for group in groups),
            }
        report |= {
            "effects": {i: asdict(effect) for i, effect in effects.items()},
            "trials": [trial.to_json() for trial in trials],
            "experiences": len(library),
            "library_version": library.version,
            "shipped_version": shipped.version,
        }
        end = StepEnd(library=library, shipped=shipped, observations=seen, report=report)
        await self.record.save_step(step.index, step.epoch, applied, trials, end)
        return end

    async def _trials(
        self,
        candidate: Library,
        shipped: Library,
        figures: Sequence[dict[str, Any]],
        steps_left: int,
        baseline: Baseline | None,
    ) -> tuple[Trial, ...]:
        if self.gate is None or self.config.gate == "none":
            return ()
        tried = Counter(figure["candidate"] for figure in figures if figure["against"] == shipped.version)
        return await prove(
            candidate,
            shipped,
            gate=self.gate,
            verifier=self.verifier,
            record=self.record,
            config=self.config,
            level=allowance(figures, steps_left=steps_left, config=self.config),
            tried=tried,
            tracker=self.tracker,
            baseline=baseline,
        )


def _outcome(
    candidate: Library, before: Library, shipped: Library, trials: Sequence[Trial], *, gated: bool
) -> tuple[Library, Library]:
    """What learning goes on from, and what ships."""
    proven = next((trial.candidate for trial in trials if trial.decision == "ships"), None)
    if proven is not None:
        return proven, proven
    if not gated:
        return candidate, candidate
    if any(trial.part == "whole" and trial.decision == "refused" for trial in trials):
        # A second look may refuse what the step began with.
        back = shipped if before.version == candidate.version else before
        return back.with_changes(candidate, ()), shipped
    return candidate, shipped


# How a drop begins whose cause is the way to the learning model, not what was asked of it (`ask.ask` writes it).
AWAY = ("unreachable:", "connection:", "rate-limit:", "timeout:", "garbled:", "http-5")


def _require_progress(groups: Sequence[Group], advantages: Sequence[Advantage], config: LearnConfig) -> None:
    """A step in which no call came through is an outage, not a result: it is not recorded, and tried again. One whose
    tasks all rest is none."""
    if not groups:
        return
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
    plan = config.group_plan
    whole = [value for group in groups for value in _on_policy(group, plan)]
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
        "mean": sum(whole) / len(whole) if whole else None,
        "scored": len(values),
        "unscored": sum(group.unscored for group in groups),
        "failed": dict(sorted(failures.items())),
        "cut_off": sum(r.stop in (StopReason.LENGTH, StopReason.LIMIT) for group in groups for r in group.rollouts),
        "groups": dict(sorted(kinds.items())),
        "lessons": sum(len(advantage.lessons) for advantage in advantages),
        "operations": dict(sorted(Counter(type(operation).__name__ for operation in applied.done).items())),
        "refused": dict(sorted(Counter(_reason_class(refused.reason) for refused in applied.refused).items())),
        "drops": dict(sorted(drops.items())),
    }


def _on_policy(group: Group, plan: GroupPlan) -> list[float]:
    """The rewards of the attempts that saw all there was to see, as it would be used; all if none did.

    Attempts that were made for what others brought would lean the mean.
    """
    rewards = plan.measured(group).rewards
    whole = rewards[: len(rewards) - len(plan.parts)] or rewards
    return [reward.value for reward in whole if reward.value is not None]


def _reason_class(reason: str) -> str:
    """Reasons are counted by their kind: what stands behind a colon is the single case."""
    return reason.split(":", 1)[0][:80]

"""Practise: the tasks of a step become groups with their rewards, and what each of them taught.

Every task's group flows on its own from rollouts to rewards to its advantage while others are still rolling out. Groups
are begun in the order of the step, and only so many at once: those to come take no memory yet, and those that are done
with keep none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tokenprior.adaptive import Visit
from tokenprior.advantage import Advantage, LeakGuard
from tokenprior.agents.base import Agent, PastAgent
from tokenprior.attempt import AT_ONCE, attempt, due_first, groups_at_once
from tokenprior.config import LearnConfig
from tokenprior.contrast import bundles, contrast
from tokenprior.effects import halves
from tokenprior.epoch import Step
from tokenprior.flow import all_of
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.models.base import Model
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier


async def practise(
    step: Step,
    library: Library,
    *,
    agent: Agent,
    verifier: Verifier,
    model: Model,
    record: RunStore,
    config: LearnConfig,
    guard: LeakGuard,
    tracker: Tracker,
    visits: Mapping[str, Visit] | None = None,
    on_lesson: Callable[[], None] | None = None,
    places: int = AT_ONCE,
) -> tuple[list[Group], list[Advantage]]:
    """All groups of a step and their advantages, in the order of its bundles whatever the order of their ends.

    A group holds its place until its lessons are drawn, so that a learning model that cannot keep up holds back the
    rollouts, and not the memory.

    Args:
        visits: what the last group of a task came to, by the task's id, where it had one.
        on_lesson: told when a group has taught something.
        places: the most attempts whose group is begun and not done with.

    Raises:
        BudgetReached, ModelError, StoreError: what was done is kept, the same call goes on.
    """
    past = agent if isinstance(agent, PastAgent) else None
    plan, visits = config.group_plan, visits or {}
    sizes = {task.id: past.count(task) if past else plan.size for task in step.tasks}
    tracker.phase("rollouts", total=sum(sizes.values()))
    rows = {task.id: row for row, task in enumerate(step.tasks, start=step.index * len(step.tasks))}
    seen = library if config.library_in_contrast else Library()

    async def made(task: Task, priors: Sequence[TokenPrior], indices: Sequence[int]) -> Group:
        return await attempt(
            task,
            priors,
            agent=agent,
            verifier=verifier,
            shelf=record.shelf,
            step=step.index,
            indices=indices,
            on_rollout=tracker.rollout,
        )

    async def attempted(task: Task) -> Group:
        if past:
            return await made(task, [TokenPrior()] * sizes[task.id], range(sizes[task.id]))
        priors = group_priors(library, task, config, place=rows[task.id])
        group, due = None, plan.always
        while due:
            more = await made(task, [priors[index] for index in due], due)
            group = group.joined(more) if group else more
            due = plan.due(group, visits.get(task.id))
        assert group is not None, "there is always a first attempt"
        tracker.change(total=tracker.now.total - plan.size + len(group.rollouts))
        return group

    async def flow(tasks: Sequence[Task]) -> tuple[list[Group], list[Advantage]]:
        groups = await all_of(attempted(task) for task in tasks)
        advantages = await contrast(groups, seen, model=model, config=config, guard=guard, step=step.index)
        for advantage in advantages:
            await record.save_advantage(step.index, advantage)
        lessons = sum(len(advantage.lessons) for advantage in advantages)
        if lessons and on_lesson:
            on_lesson()
        tracker.change(groups=tracker.now.groups + len(groups), lessons=tracker.now.lessons + lessons)
        # The store has the rest, and of what taught nothing nobody asks which attempts were shown.
        light = [replace(one, summaries=(), rollouts=one.rollouts if one.lessons else ()) for one in advantages]
        return [group.without_texts() for group in groups], light

    bundled = bundles(step.tasks, config)
    largest = max((sum(max(sizes[task.id], plan.limit) for task in bundle) for bundle in bundled), default=1)
    flowed = await due_first(
        flow,
        bundled,
        tasks=lambda bundle: bundle,
        there=await record.shelf.judged("rollout", step.index),
        least={task.id: sizes[task.id] if past else len(plan.always) for task in step.tasks},
        at_once=groups_at_once(largest, places),
    )
    groups = [group for bundle, _ in flowed for group in bundle]
    return groups, [advantage for _, advantages in flowed for advantage in advantages]


def group_priors(library: Library, task: Task, config: LearnConfig, *, place: int) -> list[TokenPrior]:
    """What each attempt of a group sees, by its index: the whole library, and in the last of the G pairs of parts.

    Args:
        place: of the task in the run; the design goes on from task to task and from step to step.
    """
    rendering = config.prior.rendering
    whole = TokenPrior.of(library, rendering, question=task.question)
    pairs = config.pairs if whole.included else 0
    priors = [whole] * (config.group_size - 2 * pairs)
    for pair in range(pairs):
        for part in halves(whole.included, row=place * pairs + pair, seed=f"{config.seed}/{library.version}"):
            priors.append(TokenPrior.of(library.only(part), rendering, question=task.question))
    return priors + [whole] * (config.group_plan.limit - config.group_size)

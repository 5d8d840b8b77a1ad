"""Evaluate and compare: what a prior is worth on tasks that nothing was learned from.

Every arm attempts every task k times. Arms differ in nothing but the prior, and are interleaved task by task, so that
whatever drifts at the endpoint drifts for all of them. A mean counts scored attempts only; unscored and failed ones
stand beside it. Beside every score stands the best constant answer: what an agent would get that says the same to all.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from tokenprior.agents.base import Agent
from tokenprior.arm import ArmReport, Design, best_constant, report_arm, rewards_of
from tokenprior.attempt import due_first, groups_at_once, side_by_side
from tokenprior.comparison import Comparison, differ, is_decided, task_differences
from tokenprior.config import EvaluateConfig
from tokenprior.errors import ConfigError
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.prior import Rendering, TokenPrior
from tokenprior.progress import Tracker
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier

# A look waits for its slowest attempt, so there is enough between two looks to keep an endpoint busy.
LOOK_TASKS = 8
LOOK_ATTEMPTS = 32


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
    controls: Collection[str] = (),
    config: EvaluateConfig | None = None,
    tracker: Tracker | None = None,
) -> Comparison:
    """Score libraries side by side on the same tasks.

    With `config.stop_early` the tasks are taken in an order drawn from the seed, and after every few of them the
    evidence is looked at; once every arm is decided, no more tasks are done. The same call stops where it stopped.
    Guaranteed: between arms that are alike on the population the tasks come from, any "helps" or "hurts" comes with a
    chance of 5% at most, over all looks and all arms together, and the intervals of the gains cover. Not guaranteed:
    the size of a gain at an early stop leans to the side that stopped it, and so do the scores of the arms.

    The same call without `stop_early` does all tasks, re-uses what was done, and judges by the test of a fixed sample.
    That test alone keeps its 5% too, since the first look changed neither the tasks nor their rewards. But whoever goes
    on only where the first answer did not please has had two chances, and up to 10%: settle beforehand which counts.

    Args:
        tasks: held-out ones, for a figure that means something.
        arms: libraries by name; the first is the baseline, an empty one is "no prior".
        agent: at its evaluation temperature.
        controls: arms that are there to be held against, such as a placebo: nothing waits for them to be decided, and
            they cost the others no evidence.

    Raises:
        ConfigError: no tasks, no arms, or with `stop_early` a reward outside `config.reward_range`.
        BudgetReached, ModelError, StoreError: what was done is kept, the same call goes on.
    """
    config = config or EvaluateConfig()
    if not tasks or not arms:
        raise ConfigError("compare: no tasks" if arms else "compare: no arms")
    tracker = tracker or Tracker(None, record.spent)
    design = Design(
        k=config.k,
        success_at=config.success_at,
        resamples=config.resamples,
        seed=config.seed,
        reward_range=config.reward_range if config.stop_early else None,
    )
    rendering = config.prior.rendering
    # Where lessons are chosen for each task, libraries are alike only as wholes.
    whole = rendering if rendering.relevant is None else Rendering()
    priors = {arm: TokenPrior.of(library, whole) for arm, library in arms.items()}
    # Arms that put the same words before a task are one experiment: made once, and never different by chance.
    distinct = {priors[arm].fingerprint: library for arm, library in arms.items()}
    baseline = next(iter(priors.values())).fingerprint
    compared = [p.fingerprint for arm, p in priors.items() if p.fingerprint != baseline and arm not in controls]
    groups: dict[str, list[Group]] = {fingerprint: [] for fingerprint in distinct}
    tracker.phase("evaluation", total=len(tasks) * len(distinct) * config.k)

    async def on(task: Task) -> list[Group]:
        made = await side_by_side(
            task,
            [TokenPrior.of(library, rendering, question=task.question) for library in distinct.values()],
            k=config.k,
            agent=agent,
            verifier=verifier,
            shelf=record.shelf,
            phase="evaluate",
            on_rollout=tracker.rollout,
        )
        return [group.without_texts() for group in made]

    done: list[Task] = []
    attempts = len(distinct) * config.k
    there = await record.shelf.judged("evaluate", 0)
    for some in _looks(tasks, attempts, design):
        made = await due_first(
            on,
            some,
            tasks=lambda task: [task],
            there=there,
            least=dict.fromkeys((task.id for task in some), attempts),
            at_once=groups_at_once(attempts),
        )
        done += some
        for place, fingerprint in enumerate(distinct):
            groups[fingerprint] += [of_task[place] for of_task in made]
        if design.reward_range and _all_decided(groups, baseline, compared, design):
            break
    reports = [report_arm(arm, arms[arm], prior, groups[prior.fingerprint], design) for arm, prior in priors.items()]
    for report in reports:
        await record.save_evaluation(report.arm, report.library_version, report.to_json())
    constant = best_constant(done)
    stopped_after = (len(done), len(tasks)) if len(done) < len(tasks) else None
    comparison = Comparison(
        arms=tuple(reports),
        differences=differ(reports, design, controls=controls, constant=constant, stopped_after=stopped_after),
        constant=constant,
        design=design,
        tasks_done=len(done),
        tasks_total=len(tasks),
    )
    await record.save_comparison(comparison.to_json())
    return comparison


def _looks(tasks: Sequence[Task], attempts: int, design: Design) -> list[list[Task]]:
    """The tasks between one look at the evidence and the next; all of them where nobody looks before the end.

    Where the looks are depends on nothing that a second call may change, so it stops where the first one did.
    """
    if design.reward_range is None:
        return [list(tasks)]
    order = random.Random(design.seed).sample(list(tasks), len(tasks))
    size = max(LOOK_TASKS, -(-LOOK_ATTEMPTS // attempts))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _all_decided(groups: Mapping[str, Sequence[Group]], baseline: str, compared: Sequence[str], design: Design) -> bool:
    """Whether nothing is left to find out. With nothing to compare all tasks are wanted, for the score.

    Raises:
        ConfigError: a reward is outside the range that the evidence rests on.
    """
    assert design.reward_range is not None, "only a design that may stop early is looked at"
    low, high = design.reward_range
    rewards = {fingerprint: rewards_of(made) for fingerprint, made in groups.items()}
    for of_tasks in rewards.values():
        for task, values in of_tasks.items():
            for value in values:
                if value is not None and not low <= value <= high:
                    raise ConfigError(
                        f"task {task}: reward {value:g} is outside evaluate.reward_range, {low:g} to {high:g}: "
                        "set it to the lowest and the highest reward of the verifier, or do not stop early"
                    )
    return bool(compared) and all(
        is_decided(task_differences(rewards[one], rewards[baseline]), design, compared=len(compared))
        for one in compared
    )

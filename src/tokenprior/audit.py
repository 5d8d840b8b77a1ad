"""Audit: spend a number of rollouts on the effect of each lesson of a library.

Order of events: in every round each task gets a pair of attempts, one with a part of the library and one with the rest
(`effects.halves`); after a round the effects are estimated from all rounds. A lesson whose effect is settled is varied
no longer: one that helps is always there, one that hurts never, as in the library that would ship. So what is left of
the rollouts goes to the lessons that are still in doubt. The audit ends when none is, or when the rollouts are used up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tokenprior.agents.base import Agent
from tokenprior.attempt import attempt, groups_at_once
from tokenprior.config import LearnConfig
from tokenprior.effects import ENOUGH, Observation, halves, measure, observed
from tokenprior.errors import ConfigError, TokenpriorError
from tokenprior.experience import Effect
from tokenprior.flow import in_turn
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.prior import TokenPrior
from tokenprior.progress import Tracker
from tokenprior.store.record import RunStore
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier

# In widths of a 95% interval's half: about three standard errors, so that a look after every round settles little by
# chance. The interval that is reported stays the usual one.
SETTLED = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        library: with the effects that could be told.
        rollouts: how many were made for it.
        unscored: how many of them failed or could not be judged.
        settled: ids whose effect is beyond doubt, for better or worse.
    """

    library: Library
    rollouts: int
    unscored: int
    settled: tuple[str, ...]


async def audit(
    tasks: Sequence[Task],
    library: Library,
    *,
    agent: Agent,
    verifier: Verifier,
    record: RunStore,
    config: LearnConfig,
    rollouts: int,
    tracker: Tracker | None = None,
) -> Audit:
    """Measure the effect of each experience.

    Args:
        tasks: best those that no lesson was drawn from: on others an effect is flattered.
        agent: at the temperature at which it is used.
        rollouts: the most to be made; those made by an earlier call with the same tasks and library count too.

    Raises:
        ConfigError: no lessons, or too few tasks or rollouts for any effect to show.
        TokenpriorError: no attempt could be scored.
        BudgetReached, ModelError, StoreError: what was done is kept, the same call goes on.
    """
    rendering = config.prior.rendering
    ids = TokenPrior.of(library, rendering).included
    if not ids:
        raise ConfigError("audit: the library is empty: nothing can be measured")
    if min(len(tasks), rollouts // 2) < (least := len(ids) + ENOUGH):
        raise ConfigError(
            f"audit: {len(ids)} lessons cannot be told apart on {len(tasks)} tasks with {rollouts} rollouts: give at "
            f"least {least} tasks and {2 * least} rollouts"
        )
    tracker = tracker or Tracker(None, record.spent)
    tracker.phase("audit", total=rollouts // 2 * 2)
    order = random.Random(config.seed).sample(list(tasks), len(tasks))
    groups: list[Group] = []
    observations: list[Observation] = []
    effects: dict[str, Effect] = {}
    left, row = rollouts // 2, 0

    async def pair(at: tuple[int, Task], *, varied: Sequence[str], fixed: frozenset[str]) -> Group:
        row, task = at
        parts = halves(varied, row=row, seed=f"{config.seed}/{','.join(varied)}")
        made = await attempt(
            task,
            [TokenPrior.of(library.only(part | fixed), rendering, question=task.question) for part in parts],
            agent=agent,
            verifier=verifier,
            shelf=record.shelf,
            phase="audit",
            step=row // len(order),
            on_rollout=tracker.rollout,
        )
        return made.without_texts()

    while left and (varied := [i for i in ids if i not in _settled(effects)]):
        fixed = frozenset(i for i in _settled(effects) if effects[i].mean > 0)
        batch = order[:left]
        paired = partial(pair, varied=varied, fixed=fixed)
        made = await in_turn(paired, list(enumerate(batch, start=row)), at_once=groups_at_once(2))
        observations += observed(made, library, row // len(order))
        groups += made
        effects = measure(library, observations)
        left, row = left - len(batch), row + len(batch)
    attempts = [reward for group in groups for reward in group.rewards]
    if not any(reward.is_scored for reward in attempts):
        raise TokenpriorError(
            f"audit: no attempt could be scored ({attempts[0].reason}): put the endpoint or the verifier right, and "
            "the same command goes on"
        )
    found = Audit(
        library=library.with_effects(effects),
        rollouts=len(attempts),
        unscored=sum(not reward.is_scored for reward in attempts),
        settled=tuple(i for i in ids if i in _settled(effects)),
    )
    await record.save_evaluation("audit", library.version, found.library.to_json())
    return found


def _settled(effects: dict[str, Effect]) -> set[str]:
    return {i for i, effect in effects.items() if abs(effect.mean) > SETTLED * (effect.high - effect.mean)}

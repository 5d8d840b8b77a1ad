"""Attempt: a task, G times, becomes a group; each attempt sees a prior, mostly the same one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from tokenprior.agents.base import SECONDS, Agent
from tokenprior.flow import all_of, in_lanes
from tokenprior.group import Group
from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.redact import own_secrets, without_own_secrets
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.base import Verifier

# Attempts whose group is begun and not done with. With heavy tails most of the attempts of a group are over and wait
# for its last one or for its lessons, while it still holds their places: so this feeds about 2,000 slots, and in calls
# of some seconds all that one driver can carry. One that waits for a slot takes about 8 KB: 64 MB for all.
AT_ONCE = 8_192
READ_AT_ONCE = 64  # groups that are whole already

S = TypeVar("S")
T = TypeVar("T")


def groups_at_once(attempts: int, places: int = AT_ONCE) -> int:
    """How many groups of so many attempts are to be begun and not done with at the same time."""
    return max(1, places // max(1, attempts))


async def due_first(
    do: Callable[[S], Coroutine[Any, Any, T]],
    over: Sequence[S],
    *,
    tasks: Callable[[S], Sequence[Task]],
    there: Mapping[str, int],
    least: Mapping[str, int],
    at_once: int,
) -> list[T]:
    """As `in_turn`, for what may go on after a stop: it begins with what is to be made, of that with what was begun
    before, and what is whole is read beside it. So no new call waits for that. The order of the results is that of
    `over`.

    Args:
        tasks: whose attempts a thing is made of.
        there: by task, how many of its attempts are there with their reward.
        least: by task, how many are there if it is whole.
    """

    def is_whole(one: S) -> bool:
        return all(there.get(task.id, 0) >= least[task.id] for task in tasks(one))

    numbered = list(enumerate(over))
    due = [(place, one) for place, one in numbered if not is_whole(one)]
    due.sort(key=lambda pair: not any(task.id in there for task in tasks(pair[1])))
    whole = [(place, one) for place, one in numbered if is_whole(one)]
    made = await in_lanes(lambda pair: do(pair[1]), (due, at_once), (whole, min(at_once, READ_AT_ONCE)))
    results = {place: result for (place, _), result in zip([*due, *whole], made, strict=True)}
    return [results[place] for place in range(len(over))]


class Shelf(Protocol):
    """Where rollouts are kept and found again; the store of a run is one."""

    async def find(
        self, phase: Phase, step: int, task: str, made_of: Mapping[int, str]
    ) -> dict[int, tuple[Rollout, str | None, Reward | None]]: ...

    async def save(
        self, phase: Phase, step: int, made_of: str, rollout: Rollout, verifier: str | None, reward: Reward | None
    ) -> None: ...


async def attempt(
    task: Task,
    priors: Sequence[TokenPrior],
    *,
    agent: Agent,
    verifier: Verifier,
    shelf: Shelf,
    phase: Phase = "rollout",
    step: int = 0,
    indices: Sequence[int] | None = None,
    on_rollout: Callable[[Rollout, Reward], None] | None = None,
) -> Group:
    """Make a group of G attempts side by side. What was made before of the same inputs is not made again.

    Args:
        priors: one for each of the G attempts.
        shelf: where the attempts are kept.
        indices: of the attempts in their group; from 0 if not given.
        on_rollout: told of each attempt when it has its reward.
    """

    places = indices or range(len(priors))
    inputs = [agent.fingerprint, task.fingerprint]
    hashes = {prior: content_hash([*inputs, prior.fingerprint]) for prior in set(priors)}
    made_of = {index: hashes[prior] for index, prior in zip(places, priors, strict=True)}
    kept = await shelf.find(phase, step, task.id, made_of)

    async def one(index: int, prior: TokenPrior) -> tuple[Rollout, Reward]:
        rollout, judged_by, reward = kept.pop(index, (None, None, None))
        is_new = rollout is None or _may_end_otherwise(rollout)
        if rollout is None or is_new:
            reward = None
            made = await agent.attempt(task, prior, phase=phase, step=step, index=index)
            rollout = _without_secrets(replace(made, included=prior.included))
        if reward is None or judged_by != verifier.fingerprint:
            save = partial(shelf.save, phase, step, made_of[index], rollout)
            reward = await _reward(task, rollout, verifier, partial(save, None, None) if is_new else None)
            # No verdict is asked for again.
            await save(verifier.fingerprint if reward.is_scored else None, reward)
        if on_rollout:
            on_rollout(rollout, reward)
        return rollout, reward

    pairs = await all_of(one(index, prior) for index, prior in zip(places, priors, strict=True))
    return Group(task=task, rollouts=tuple(r for r, _ in pairs), rewards=tuple(w for _, w in pairs))


async def side_by_side(
    task: Task,
    priors: Sequence[TokenPrior],
    *,
    k: int,
    agent: Agent,
    verifier: Verifier,
    shelf: Shelf,
    phase: Phase,
    on_rollout: Callable[[Rollout, Reward], None] | None = None,
    under_way: Mapping[str, Callable[[], Coroutine[Any, Any, Group]]] | None = None,
) -> list[Group]:
    """A group of `k` attempts for each prior. Priors of the same words share one: the same attempts in the same place
    are made once, and would else be paid for twice, the one kept in the place of the other.

    Args:
        under_way: by the fingerprint of a prior, what waits for its group where somebody makes that already.
    """
    distinct = {prior.fingerprint: prior for prior in priors}
    waiting = under_way or {}

    async def one(prior: TokenPrior) -> Group:
        if wait := waiting.get(prior.fingerprint):
            return await wait()
        return await attempt(
            task, [prior] * k, agent=agent, verifier=verifier, shelf=shelf, phase=phase, on_rollout=on_rollout
        )

    groups = dict(zip(distinct, await all_of(one(prior) for prior in distinct.values()), strict=True))
    for prior in priors:
        if on_rollout and (prior is not distinct[prior.fingerprint] or prior.fingerprint in waiting):
            for rollout, reward in zip(
                groups[prior.fingerprint].rollouts, groups[prior.fingerprint].rewards, strict=True
            ):
                on_rollout(rollout, reward)
    return [groups[prior.fingerprint] for prior in priors]


def _may_end_otherwise(rollout: Rollout) -> bool:
    """A failure may have been put right in between, and more time given. With no more of it the calls come from the
    ledger, with the time that they took, and the end is the same."""
    return rollout.failure is not None or rollout.metadata.get("limit") == SECONDS


def _without_secrets(rollout: Rollout) -> Rollout:
    """What a program or a tool said of our keys is neither kept nor shown to the learning model."""
    secrets = own_secrets()
    texts = [rollout.output, *(message.content for message in rollout.messages)]
    texts += [call.arguments for message in rollout.messages for call in message.tool_calls]
    if not any(secret in text for text in texts for secret in secrets):
        return rollout
    messages = tuple(
        replace(
            message,
            content=without_own_secrets(message.content, secrets),
            tool_calls=tuple(
                replace(call, arguments=without_own_secrets(call.arguments, secrets)) for call in message.tool_calls
            ),
        )
        for message in rollout.messages
    )
    return replace(rollout, messages=messages, output=without_own_secrets(rollout.output, secrets))


async def _reward(
    task: Task, rollout: Rollout, verifier: Verifier, keep: Callable[[], Awaitable[None]] | None
) -> Reward:
    """The verdict on an attempt, which is kept meanwhile if it is new."""
    if rollout.failure is not None:
        return Reward.unscored(f"the attempt failed: {rollout.failure.kind}")
    rewards: list[Reward] = []

    async def judge() -> None:
        rewards.append(await verifier.verify(task, rollout))

    async def safe() -> None:
        # A verdict that asks a model or another process is not waited for before what was paid for is safe. Most are
        # there at once, and are saved with it in one write.
        if keep and not rewards:
            await keep()

    await all_of([judge(), safe()])
    return rewards[0]

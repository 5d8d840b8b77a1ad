"""Group: the G rollouts of one task with their rewards, and whether they are worth learning from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task

MOST_EXTRACTED = 200  # characters of an answer by which it is told from others

GroupKind = Literal["mixed", "all_fail", "all_success", "unscored"]


def kind_of(values: Sequence[float], *, success_at: float = 1.0, threshold: float = 0.0) -> GroupKind:
    """What attempts of such rewards can teach; see `Group.kind`."""
    if not values:
        return "unscored"
    if max(values) - min(values) > threshold:
        return "mixed"
    return "all_success" if min(values) >= success_at else "all_fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """G attempts at one task, in the order of their index. `rewards[i]` belongs to `rollouts[i]`.

    A group belongs to its task by the task's id, never by its text: two rows with equal text and different
    answers are two groups.
    """

    task: Task
    rollouts: tuple[Rollout, ...]
    rewards: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if len(self.rollouts) != len(self.rewards):
            raise ValueError(f"{len(self.rollouts)} rollouts, but {len(self.rewards)} rewards")
        if any(rollout.task_id != self.task.id for rollout in self.rollouts):
            raise ValueError(f"a rollout of another task in the group of {self.task.id}")

    def joined(self, more: Group) -> Group:
        """The attempts of two groups of one task, in the order of their index."""
        pairs = sorted(
            zip(self.rollouts + more.rollouts, self.rewards + more.rewards, strict=True), key=lambda pair: pair[0].index
        )
        return replace(self, rollouts=tuple(r for r, _ in pairs), rewards=tuple(w for _, w in pairs))

    def without_texts(self) -> Group:
        """What figures are made of: no messages, outputs or words of the verifier. A step and an evaluation keep their
        groups like this once what they taught is drawn, for the store has the rest."""
        rollouts = tuple(replace(rollout, messages=(), output="", metadata={}) for rollout in self.rollouts)
        rewards = tuple(
            replace(reward, extracted=reward.extracted and reward.extracted[:MOST_EXTRACTED], feedback="")
            for reward in self.rewards
        )
        return replace(self, rollouts=rollouts, rewards=rewards)

    @property
    def rewards_G(self) -> tuple[float, ...]:
        """The rewards of the scored attempts, in the order of the rollouts; shorter than G if some are unscored."""
        return tuple(reward.value for reward in self.rewards if reward.value is not None)

    @property
    def mean(self) -> float | None:
        """The mean reward of the scored attempts, or `None` if there are none."""
        values = self.rewards_G
        return sum(values) / len(values) if values else None

    @property
    def spread(self) -> float:
        """Largest minus smallest reward of the scored attempts; 0.0 if fewer than two are scored."""
        values = self.rewards_G
        return max(values) - min(values) if values else 0.0

    @property
    def scored(self) -> tuple[tuple[Rollout, Reward], ...]:
        """The attempts that have a reward, with it."""
        pairs = zip(self.rollouts, self.rewards, strict=True)
        return tuple((rollout, reward) for rollout, reward in pairs if reward.is_scored)

    @property
    def failed(self) -> int:
        """How many attempts brought no output."""
        return sum(rollout.failure is not None for rollout in self.rollouts)

    @property
    def unscored(self) -> int:
        """How many attempts brought an output that no verifier could judge."""
        return sum(
            rollout.failure is None and not reward.is_scored
            for rollout, reward in zip(self.rollouts, self.rewards, strict=True)
        )

    def has_contrast(self, threshold: float = 0.0) -> bool:
        """Whether the spread of rewards is above the threshold: {0.5, 0.5} has no contrast, {1, 2} has."""
        return self.spread > threshold

    def kind(self, *, success_at: float = 1.0, threshold: float = 0.0) -> GroupKind:
        """What this group can teach.

        Args:
            success_at: the reward from which an attempt counts as a success.
            threshold: the spread above which attempts contrast with each other.
        """
        return kind_of(self.rewards_G, success_at=success_at, threshold=threshold)

    def _repr_html_(self) -> str:
        """For a notebook."""
        from tokenprior.display import group_html

        return group_html(self)

    @property
    def distinct_outputs(self) -> int:
        """How many different outputs the attempts brought: what attempts can disagree about without any reward."""
        return len({" ".join(rollout.output.split()) for rollout in self.rollouts if not rollout.failure})

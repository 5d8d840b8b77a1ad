"""Recorded: the reward that an attempt has in the log it was read from."""

from __future__ import annotations

from collections.abc import Sequence

from tokenprior.logs.base import LoggedTask
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task, content_hash


class Recorded:
    """Gives the rewards of a log. It judges nothing: an attempt that the log does not hold is unscored."""

    def __init__(self, logged: Sequence[LoggedTask]) -> None:
        self._rewards = {
            (one.task.id, rollout.index): (rollout.output, reward) for one in logged for rollout, reward in one.attempts
        }
        told = [[*key, output, w.value, w.reason, w.feedback] for key, (output, w) in self._rewards.items()]
        self._fingerprint = content_hash(["recorded", sorted(told, key=lambda row: (str(row[0]), row[1]))])

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """The logged reward. Unscored if the log gives none, or holds another attempt in this place."""
        output, reward = self._rewards.get((task.id, rollout.index), (None, None))
        if reward is None or output != rollout.output:
            return Reward.unscored("no attempt of the log")
        return reward

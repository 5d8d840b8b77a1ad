"""Recorded: the reward that an attempt has in the log it was read from.

A log says nothing of attempts that are still to be made, such as those at the gate: they are another verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenprior.logs.base import LoggedTask
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.base import Verifier


class Recorded:
    """Gives the rewards of a log. It judges nothing: an attempt that the log does not hold is unscored."""

    def __init__(self, logged: Sequence[LoggedTask], *, otherwise: Verifier | None = None) -> None:
        """With `otherwise`, that verifier judges attempts at all tasks that are not the log's."""
        self._otherwise = otherwise
        self._tasks = {one.task.fingerprint for one in logged}
        self._rewards = {
            (one.task.id, rollout.index): (rollout.output, reward) for one in logged for rollout, reward in one.attempts
        }
        told = [[*key, output, w.value, w.reason, w.feedback] for key, (output, w) in self._rewards.items()]
        beside = [otherwise.fingerprint] if otherwise else []
        self._fingerprint = content_hash(["recorded", sorted(told, key=lambda row: (str(row[0]), row[1])), *beside])

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """The logged reward. Unscored if the log gives none, or holds another attempt in this place."""
        if self._otherwise is not None and task.fingerprint not in self._tasks:
            return await self._otherwise.verify(task, rollout)
        output, reward = self._rewards.get((task.id, rollout.index), (None, None))
        if reward is None or output != rollout.output:
            return Reward.unscored("no attempt of the log")
        return reward

    async def aclose(self) -> None:
        """Close the verifier beside it, if that is to be closed."""
        if close := getattr(self._otherwise, "aclose", None):
            await close()

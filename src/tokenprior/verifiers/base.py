"""The one protocol of the family: a verifier rewards a rollout."""

from __future__ import annotations

from typing import Protocol

from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task


class Verifier(Protocol):
    """Judges attempts.

    Attributes:
        fingerprint: a hash of all that can change its verdict (kind, settings, code). Verdicts kept under another
            fingerprint are not used again.
    """

    @property
    def fingerprint(self) -> str: ...

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """A reward for an attempt that has an output. What the verifier cannot judge it leaves unscored, with the
        reason; it raises nothing but errors that stop the run."""
        ...

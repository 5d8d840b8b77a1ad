"""The one protocol of the family: an agent makes rollouts."""

from __future__ import annotations

from typing import Protocol

from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout
from tokenprior.task import Task


class Agent(Protocol):
    """A frozen policy: it attempts tasks, conditioned on a prior.

    Attributes:
        fingerprint: a hash of all that can change what it does (model, prompt, settings, code). Work kept under another
            fingerprint is not used again.
    """

    @property
    def fingerprint(self) -> str: ...

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """One rollout. What goes wrong with this attempt is a `Failure` of the rollout; only errors that stop the
        run are raised."""
        ...

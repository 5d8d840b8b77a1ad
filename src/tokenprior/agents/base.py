"""The one protocol of the family: an agent makes rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Rollout
from tokenprior.task import Task

QUESTION = "{question}"  # stands for the task's question in a template
SECONDS = "seconds"  # as `limit` in the metadata of a rollout: it was cut off by the clock, which is in no fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimits:
    """What one attempt may take; at the first that is reached it ends, with what it has, as `StopReason.LIMIT`.

    Attributes:
        turns: calls of the model.
        tokens: input and output of all its calls; none is made once they are used up, so the last may go over.
        seconds: at work, waiting for a free slot and back-off left out.
        usd: US dollars; the last call may go over. The price has to be known.
    """

    turns: int = 20
    tokens: int | None = None
    seconds: float = 600.0
    usd: float | None = None


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


@runtime_checkable
class PastAgent(Agent, Protocol):
    """An agent whose attempts were all made before, so that a group is as large as it is."""

    def count(self, task: Task) -> int:
        """How many attempts there are at a task."""
        ...


@runtime_checkable
class BoundedAgent(Agent, Protocol):
    """An agent that makes only so many attempts at once, whoever asks, for each may hold an interpreter or a server."""

    @property
    def concurrency(self) -> int: ...

"""Logged: an agent whose attempts were made already. It gives them as they stand in a log and calls nothing.

What it gives does not depend on the prior: a log can be learned from, but nothing can be tried out on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenprior.errors import ConfigError
from tokenprior.logs.base import LoggedTask
from tokenprior.models.base import Phase
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Failure, Rollout, StopReason
from tokenprior.task import Task, content_hash


class LoggedAgent:
    """Gives recorded attempts, the one of each index in its turn."""

    def __init__(self, logged: Sequence[LoggedTask]) -> None:
        """Raises ConfigError if two logs hold a task of the same id."""
        self._attempts: dict[str, tuple[Rollout, ...]] = {}
        for one in logged:
            if one.task.id in self._attempts:
                raise ConfigError(
                    f"the logs hold task {one.task.id!r} twice: give the tasks of each log ids of their own"
                )
            self._attempts[one.task.id] = tuple(rollout for rollout, _ in one.attempts)
        self._fingerprint = content_hash(
            ["logged", [[one.task.fingerprint, [_content(rollout) for rollout, _ in one.attempts]] for one in logged]]
        )

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def count(self, task: Task) -> int:
        """How many attempts at a task the log holds; 0 if it does not know the task."""
        return len(self._attempts.get(task.id, ()))

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """The recorded attempt of that index; a failure `not-logged` where the log holds fewer.

        Raises:
            ConfigError: the log does not know the task, or something is to be tried out rather than learned from.
        """
        if phase != "rollout":
            raise ConfigError(
                f"attempts of a log cannot be made again for the phase {phase!r}: learn from it with learn.gate: none, "
                "and compare libraries with an agent that runs"
            )
        if task.id not in self._attempts:
            raise ConfigError(f"the log holds no task {task.id!r}: learn from the tasks of the log itself")
        attempts = self._attempts[task.id]
        if index < len(attempts):
            return attempts[index]
        failure = Failure(kind="not-logged", detail=f"the log holds {len(attempts)} attempts at task {task.id}")
        return Rollout(task_id=task.id, index=index, messages=(), output="", stop=StopReason.FAILED, failure=failure)


def _content(rollout: Rollout) -> list[object]:
    """All of an attempt but where it stands."""
    messages = [message.to_json() for message in rollout.messages]
    return [messages, rollout.output, rollout.stop, rollout.failure and rollout.failure.kind]

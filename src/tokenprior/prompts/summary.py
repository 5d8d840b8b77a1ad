"""The question of the summary: what happened in one attempt, step by step.

The words that all summaries share come first, then what those of one group share, then the attempt.
"""

from __future__ import annotations

from tokenprior.prompts import shown
from tokenprior.reward import Reward
from tokenprior.rollout import Message, Rollout
from tokenprior.task import Task

SYSTEM = f"""You retell attempts of an agent so that they can be compared. {shown.DATA_RULE}

Say what the attempt did step by step, which knowledge or earlier lessons it used, where it turned right or wrong, and \
what its final answer was and in which form. Give no advice yet."""


def messages(task: Task, rollout: Rollout, reward: Reward | None, *, limit: int) -> tuple[Message, ...]:
    """Args: `reward` is `None` where learning goes without ground truth; then no answer is shown either."""
    parts = [f"The task:\n{shown.fenced(task.question, limit)}"]
    if reward is not None and (answer := shown.reference(task)):
        parts.append(f"The reference answer:\n{shown.fenced(answer, 1_000)}")
    parts.append(shown.attempt(1, rollout, reward, limit=limit * 4, question=task.question))
    parts.append("Retell this attempt in at most 150 words, step by step and without advice.")
    return (Message(role="system", content=SYSTEM), Message(role="user", content="\n\n".join(parts)))

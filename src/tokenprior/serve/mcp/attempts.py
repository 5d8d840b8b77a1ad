"""Attempts that a coding agent reports: kept with their rewards, and what is still needed to learn from them.

What an agent sends is data. Its size is bounded here; the store masks secrets and personal data in it. The first
attempt at a task says what the task asks; those that follow need only its name.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tokenprior.config import LearnConfig
from tokenprior.contrast import question_for
from tokenprior.errors import DataError
from tokenprior.experience import one_line
from tokenprior.group import Group
from tokenprior.library import Library
from tokenprior.logs import LoggedTask
from tokenprior.logs.base import grouped
from tokenprior.logs.served import attempts
from tokenprior.private import masked
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.rollout import Message
from tokenprior.served import Served
from tokenprior.store import Store, schema
from tokenprior.store.practised import practised
from tokenprior.store.served import ServedLog, served_of
from tokenprior.task import content_hash

MOST_TASK = 8_000  # characters
MOST_TEXT = 50_000
MOST_FEEDBACK = 4_000
MOST_MESSAGES = 200
MOST_TRAJECTORY = 400_000  # characters of all messages as JSON
_LONGEST_NAME = 100
_MOST_NAMED = 10_000  # tasks in one query; SQLite takes three times as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt as an agent reports it.

    Attributes:
        task: its name, or its text where that is short.
        output: what came of it.
        reward: how good that is; higher is better.
        feedback: what a check said of it.
        messages: how it went, in the shape of the OpenAI chat API.
        question: the text of the task, if `task` is only its name.
    """

    task: str
    output: str
    reward: float
    feedback: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    question: str = ""

    def __post_init__(self) -> None:
        """Raises DataError if something is missing, too long, or not what it should be."""
        sizes = {"task": MOST_TASK, "output": MOST_TEXT, "feedback": MOST_FEEDBACK, "question": MOST_TEXT}
        for name, most in sizes.items():
            if (length := len(getattr(self, name))) > most:
                raise DataError(f"{name}: {length:,} characters, at most {most:,} are kept: send what matters")
        if not self.task.strip():
            raise DataError("task: empty: expected its name or its text")
        if not math.isfinite(self.reward):
            raise DataError(f"reward: expected a finite number, got {self.reward}")
        if len(self.messages) > MOST_MESSAGES:
            raise DataError(f"messages: {len(self.messages)}, at most {MOST_MESSAGES} are kept: send the last ones")
        if (length := len(json.dumps(list(self.messages), default=str))) > MOST_TRAJECTORY:
            raise DataError(f"messages: {length:,} characters, at most {MOST_TRAJECTORY:,} are kept: shorten results")
        for place, message in enumerate(self.messages):
            try:
                Message.from_json(message)
            except (ValueError, TypeError, AttributeError) as error:
                raise DataError(f"messages: message {place}: {error}") from error

    @property
    def name(self) -> str:
        """What the task is called in the store."""
        name = one_line(masked(redact(self.task)))
        return name if len(name) <= _LONGEST_NAME else "t-" + content_hash(name)[:12]

    @property
    def asked(self) -> str:
        """What the task asks."""
        return self.question.strip() or self._first_words or self.task

    def exchange(self, question: str) -> dict[str, Any]:
        """The conversation, made to begin with the question."""
        first = [] if self._first_words == question else [{"role": "user", "content": question}]
        return {"messages": [*first, *self.messages], "output": self.output}

    @property
    def _first_words(self) -> str:
        said = (one.content for one in map(Message.from_json, self.messages) if one.role == "user")
        return next((text for text in said if text.strip()), "")


async def keep(attempt: Attempt, store: Store, *, library: str, version: str) -> tuple[str, LoggedTask]:
    """Keep an attempt; its id, and its task with all attempts at it.

    Args:
        library, version: what the agent was served.
    """
    earlier = await asyncio.to_thread(recorded, store, library, [attempt.name])
    question = earlier[0].task.question if earlier else attempt.asked
    identity = uuid.uuid4().hex
    served = Served(
        id=identity,
        library=library,
        version=version,
        held_out=False,
        share=0.0,
        unit=identity,
        source="mcp",
        served_at=time.time(),
        task=attempt.name,
        exchange=attempt.exchange(question),
        reward=Reward(value=attempt.reward, feedback=attempt.feedback),
    )
    await ServedLog(store.writer).note([served])
    tasks = await asyncio.to_thread(recorded, store, library, [attempt.name])
    return identity, next(
        one for one in tasks if any(r.metadata["source"] == f"served:{identity}" for r, _ in one.attempts)
    )


def recorded(store: Store, library: str, tasks: Sequence[str] | None = None) -> tuple[LoggedTask, ...]:
    """The rewarded attempts of a library, whoever kept them, by task and in the order in which they were made.

    Args:
        tasks: the names that they are kept under; all by default.
    """
    columns = schema.served.c
    wanted = [] if tasks is None else [columns.task.in_(tasks)]
    query = sa.select(schema.served).where(*_of(library), *wanted).order_by(columns.served_at, columns.id)
    rows = store.read(lambda connection: [served_of(row._mapping) for row in connection.execute(query)])
    return grouped(attempts(rows))


def unlearned(store: Store, name: str, library: Library, *, by_agents: bool = False) -> tuple[LoggedTask, ...]:
    """The tasks with attempts that are not behind a library yet, each with all its attempts.

    Args:
        name: that the library is served under.
        by_agents: only tasks at which an agent recorded an attempt, not those that a proxy alone has seen.
    """
    columns = schema.served.c
    known = practised(store, library)
    # Counted first: what is behind the library already need not be read.
    counted = sa.select(columns.task, sa.func.count()).where(*_of(name)).group_by(columns.task)
    if by_agents:
        counted = counted.having(sa.func.sum(sa.case((columns.source == "mcp", 1), else_=0)) > 0)
    counts = store.read(lambda connection: connection.execute(counted).all())
    more = [task for task, count in counts if count > known.get(task, 0)]
    few = len(more) <= _MOST_NAMED and None not in more
    found = recorded(store, name, more if few else None)
    return tuple(one for one in found if len(one.attempts) > known.get(one.task.id, 0))


def _of(library: str) -> list[sa.ColumnElement[bool]]:
    """What a row has to be for an attempt that can be learned from."""
    columns = schema.served.c
    return [columns.library == library, columns.exchange.is_not(None), columns.reward.is_not(None)]


def teaches(task: LoggedTask, config: LearnConfig) -> bool:
    """Whether a lesson can be drawn from the attempts at a task."""
    return question_for(_group(task), config) is not None


def needed(task: LoggedTask, config: LearnConfig) -> str:
    """What the attempts at a task can teach, or what is still needed for that."""
    group = _group(task)
    count = "1 attempt" if len(group.rollouts) == 1 else f"{len(group.rollouts)} attempts"
    if teaches(task, config):
        return f"{count} at this task: enough to learn from."
    if not config.ground_truth:
        return f"{count} at this task: record one with another output, so that there is something to compare."
    at, kind = f"{count} at this task", group.kind(success_at=config.success_at, threshold=config.contrast_threshold)
    if kind == "all_success":
        return f"{at}, all successful: record one with a lower reward too, so that there is something to compare."
    return (
        f"{at}, all with reward {group.rewards_G[0]:g}: record one with another reward, or say in `feedback` what was "
        "wrong."
    )


def _group(task: LoggedTask) -> Group:
    return Group(
        task=task.task,
        rollouts=tuple(rollout for rollout, _ in task.attempts),
        rewards=tuple(reward for _, reward in task.attempts),
    )

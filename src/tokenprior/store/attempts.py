"""Attempts: what the pages ask of a store about groups of attempts and single ones. Every answer is bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from tokenprior.errors import NotFound
from tokenprior.experience import similarity
from tokenprior.library import SAME
from tokenprior.rollout import Message
from tokenprior.store import schema
from tokenprior.store.story import Change, story_of

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_OF_A_TASK = 400  # attempts in one step, or in all arms of a comparison
MOST_ADVANTAGES = 2_000  # of a step

Row = dict[str, Any]
Kind = Literal["mixed", "equal", "trouble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """A group in a list.

    Attributes:
        marks: of each attempt its reward, or in a word why it has none.
    """

    step: int
    task: str
    marks: tuple[float | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Became:
    """What a group taught and what came of it.

    Attributes:
        advantage: as it is kept; `None` where nothing was asked, or is asked only now.
        changes: of the step, those that rest on this group.
        finished: whether the step is.
    """

    advantage: Row | None
    changes: tuple[Change, ...]
    finished: bool


def groups(
    store: Store,
    run: str,
    *,
    step: int | None = None,
    kind: Kind | None = None,
    after: tuple[int, str] | None = None,
    limit: int,
) -> list[GroupLine]:
    """Some groups of the practice attempts of a run, by step and task.

    Args:
        kind: `mixed` for those whose rewards differ, `equal` for those whose do not, `trouble` for those with an
            attempt that has no reward.
        after: the step and task of the group behind which the list goes on.
    """
    columns = schema.rollouts.c
    place = (columns.step, columns.task)
    practice = (columns.run == run, columns.phase == "rollout")
    spread = sa.func.max(columns.reward_value) - sa.func.min(columns.reward_value)

    def read(connection: sa.Connection) -> list[GroupLine]:
        query = sa.select(*place).where(*practice).group_by(*place).order_by(*place).limit(limit)
        if step is not None:
            query = query.where(columns.step == step)
        if after is not None:
            query = query.where(sa.tuple_(*place) > sa.tuple_(*map(sa.literal, after)))
        if kind is not None:
            having = {"mixed": spread > 0, "equal": spread == 0, "trouble": sa.func.count(columns.trouble) > 0}
            query = query.having(having[kind])
        found: list[tuple[int, str]] = [(at, task) for at, task in connection.execute(query)]
        marks: dict[tuple[int, str], list[float | str]] = {one: [] for one in found}
        of_each = sa.select(*place, columns.reward_value, columns.trouble).where(
            *practice, sa.tuple_(*place).in_(found)
        )
        for at, task, value, trouble in connection.execute(of_each.order_by(*place, columns.attempt)):
            marks[at, task].append(mark(value, trouble))
        return [GroupLine(step=at, task=task, marks=tuple(made)) for (at, task), made in marks.items()]

    return store.read(read)


def mark(value: float | None, trouble: str | None) -> float | str:
    """A reward, or in a word why there is none."""
    return value if value is not None else (trouble or "not judged yet").split(":", 1)[0]


def attempts_of(store: Store, run: str, phase: str, step: int, task: str) -> list[Row]:
    """All attempts at a task in a step, whatever they saw, with `rollout` and `reward` as JSON values.

    Raises:
        NotFound: there is none.
    """
    columns = schema.rollouts.c
    here = (columns.run == run, columns.phase == phase, columns.step == step, columns.task == task)

    def read(connection: sa.Connection) -> list[Row]:
        query = sa.select(schema.rollouts).where(*here).order_by(columns.attempt, columns.input_hash)
        return [_attempt(row._mapping) for row in connection.execute(query.limit(MOST_OF_A_TASK))]

    found = store.read(read)
    if not found:
        raise NotFound(f"run {run} has no attempts at task {task!r} in step {step} ({phase})")
    return found


def asked_in(store: Store, run: str, phase: str, tasks: Sequence[str]) -> dict[str, str]:
    """What the agent was asked at each of some tasks, where that is known."""
    columns = schema.rollouts.c

    def read(connection: sa.Connection) -> dict[str, str]:
        asked: dict[str, str] = {}
        for task in tasks:
            here = (columns.run == run, columns.phase == phase, columns.step == 0, columns.task == task)
            first = connection.execute(
                sa.select(columns.rollout).where(*here).order_by(columns.attempt, columns.input_hash).limit(1)
            ).scalar()
            messages = [Message.from_json(one) for one in json.loads(first)["messages"]] if first else []
            if question := next((one.content for one in messages if one.role == "user"), ""):
                asked[task] = question
        return asked

    return store.read(read)


def attempt_at(store: Store, run: str, place: tuple[str, int, str, int, str]) -> Row:
    """One attempt.

    Args:
        place: phase, step, task, attempt, and what it was made of; an empty last one takes any.

    Raises:
        NotFound: there is none.
    """
    phase, step, task, attempt, made_of = place
    columns = schema.rollouts.c
    here = [columns.run == run, columns.phase == phase, columns.step == step, columns.task == task]
    here.append(columns.attempt == attempt)
    if made_of:
        here.append(columns.input_hash == made_of)

    def read(connection: sa.Connection) -> Row | None:
        row = connection.execute(sa.select(schema.rollouts).where(*here).order_by(columns.input_hash).limit(1)).first()
        return None if row is None else _attempt(row._mapping)

    found = store.read(read)
    if found is None:
        raise NotFound(f"run {run} has no attempt {task}#{attempt} in step {step} ({phase})")
    return found


def _attempt(row: Mapping[Any, Any]) -> Row:
    texts = {name: json.loads(row[name]) if row[name] else None for name in ("rollout", "reward")}
    return {**row, **texts, "mark": mark(row["reward_value"], row["trouble"])}


def became_of(store: Store, run: str, step: int, task: str) -> Became:
    """What a group taught, and what the library update made of it.

    An operation names its lessons by numbers that only its step knew. So it is told by what the library says: what it
    wrote rests on this group, or, where it was refused, it says what this group taught.
    """

    def read(connection: sa.Connection) -> tuple[Row | None, list[Row], bool]:
        return _advantage(connection, run, step, task), _libraries(connection, run, step), _ended(connection, run, step)

    advantage, libraries, finished = store.read(read)
    if advantage is None or not finished:
        return Became(advantage=advantage, changes=(), finished=finished)
    resting = {e["id"] for one in libraries for e in one["experiences"] if task in e["provenance"].get("groups", ())}
    taught = [text for _, text in advantage["lessons"]]
    chapters = story_of(store, run, before=step + 1, limit=1)
    changes = chapters[0].changes if chapters and chapters[0].step == step else ()
    return Became(
        advantage=advantage,
        changes=tuple(one for one in changes if _rests(one, resting, taught)),
        finished=True,
    )


def _rests(change: Change, resting: set[str], taught: Sequence[str]) -> bool:
    if change.done:
        return change.op != "Delete" and bool(change.ids) and change.ids[0] in resting
    words = (change.after or "").rpartition(": ")[2]
    return any(similarity(words, text) >= SAME for text in taught)


def _advantage(connection: sa.Connection, run: str, step: int, task: str) -> Row | None:
    columns = schema.advantages.c
    # It is kept under the first of its groups; a contrast may have seen several.
    first = (columns.task == task).desc()
    query = sa.select(columns.advantage).where(columns.run == run, columns.step == step).order_by(first, columns.task)
    for text in connection.execute(query.limit(MOST_ADVANTAGES)).scalars():
        advantage: Row = json.loads(text)
        if task in advantage["groups"]:
            return advantage
    return None


def _libraries(connection: sa.Connection, run: str, step: int) -> list[Row]:
    steps, trials = schema.steps.c, schema.trials.c
    kept = sa.select(steps.library).where(steps.run == run, steps.step == step)
    tried = sa.select(trials.candidate).where(trials.run == run, trials.step == step).order_by(trials.sequence)
    return [json.loads(text) for query in (kept, tried) for text in connection.execute(query).scalars()]


def _ended(connection: sa.Connection, run: str, step: int) -> bool:
    columns = schema.steps.c
    return (
        connection.execute(sa.select(columns.step).where(columns.run == run, columns.step == step)).first() is not None
    )

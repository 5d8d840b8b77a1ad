"""Story: what happened in the steps of a run, told for somebody who has read no manual.

For every step: what was tried and how it went, who won, what was learned, what that changed, and what became of it at
the gate. Only what the steps left behind is read, and of attempts their rewards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.adaptive import GroupPlan
from tokenprior.store import schema
from tokenprior.store.life import carry_out, line_of, with_targets, words_of

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_WINNERS = 3  # groups of a step that are told of
MOST_CONTRASTS = 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one operation did to the library, or would have done.

    Attributes:
        op: `Add`, `Modify`, `Merge`, `Delete` or `Keep`.
        ids: the lessons it is about; the one that stays comes first.
        before, after: its words; `None` where there were or are none.
        reason: that the learning model gave; of a refusal why it was refused.
        done: whether it was carried out.
        measured: whether it was a deletion because of what the lesson was measured to do.
        fate: what became of it: `ships`, `open` (learning goes on with it), `dropped`, or empty where nothing can.
    """

    op: str
    ids: tuple[str, ...]
    before: str | None
    after: str | None
    reason: str
    done: bool
    measured: bool
    fate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One step.

    Attributes:
        report: as the step left it.
        experiences: how many lessons the attempts of this step could see.
        whole: of each group, so many attempts saw all of them, the first ones; `None` if all attempts did.
        means: of the attempts that did (`whole`), and of those that saw a part or none (`part`): `attempts` and `mean`.
        winners: groups whose attempts lie furthest apart: `task`, `rewards` by attempt, and the `best` attempts.
        lessons: some of what was learned: `groups` and `lessons`.
        changes: what the learning model did with it.
        trials: at the gate, their figures.
        shipped_before, shipped_after: versions of what is used.
        learning_after: the version that learning goes on from.
    """

    step: int
    report: Row
    experiences: int
    whole: int | None
    means: Row
    winners: tuple[Row, ...]
    lessons: tuple[Row, ...]
    changes: tuple[Change, ...]
    trials: tuple[Row, ...]
    shipped_before: str
    shipped_after: str
    learning_after: str

    @property
    def quiet(self) -> bool:
        """Whether it changed nothing."""
        changed = any(change.done and change.op != "Keep" for change in self.changes)
        return not changed and self.shipped_before == self.shipped_after


def story_of(
    store: Store, run: str, *, before: int | None = None, limit: int, plan: GroupPlan | None = None
) -> list[Chapter]:
    """Some steps of a run, the newest first.

    Args:
        before: the step before which to begin.
        plan: of its groups, if it is known; else all attempts count as seeing the whole library.
    """
    start = store.find_run(run).start
    columns = schema.steps.c

    def read(connection: sa.Connection) -> list[Chapter]:
        query = sa.select(columns.step, columns.report, columns.library, columns.shipped).where(columns.run == run)
        if before is not None:
            query = query.where(columns.step < before)
        # One more than is told, for what the last of them began with.
        found = [_step(row) for row in connection.execute(query.order_by(columns.step.desc()).limit(limit + 1))]
        told = found[:limit]
        rows = {
            table: _of_steps(connection, table, run, [one["step"] for one in told])
            for table in ("operations", "trials")
        }
        operations = with_targets(rows["operations"], told)
        winners = _winners(connection, run, [one["step"] for one in told])
        chapters: list[Chapter] = []
        for place, one in enumerate(told):
            earlier = found[place + 1] if place + 1 < len(found) else None
            library = earlier["library"] if earlier else start.to_json()
            shipped = earlier["shipped"] if earlier else start.to_json()
            here = [row for row in operations if row["step"] == one["step"]]
            chapters.append(
                Chapter(
                    step=one["step"],
                    report=one["report"],
                    experiences=len(library["experiences"]),
                    whole=plan.size - len(plan.parts) if plan and library["experiences"] else None,
                    means=_means(connection, run, one["step"], plan.parts if plan and library["experiences"] else None),
                    winners=winners.get(one["step"], ()),
                    lessons=_lessons(connection, run, one["step"]),
                    changes=_changes(here, library, shipped, one),
                    trials=tuple(row["figures"] for row in rows["trials"] if row["step"] == one["step"]),
                    shipped_before=shipped["version"],
                    shipped_after=one["shipped"]["version"],
                    learning_after=one["library"]["version"],
                )
            )
        return chapters

    return store.read(read)


def _step(row: Any) -> Row:
    texts = {name: json.loads(getattr(row, name)) for name in ("report", "library", "shipped")}
    return {"step": row.step, **texts}


def _of_steps(connection: sa.Connection, table: str, run: str, steps: Sequence[int]) -> list[Row]:
    source = schema.metadata.tables[table]
    leave_out = {"candidate"}
    columns = [column for column in source.c if column.name not in leave_out]
    query = sa.select(*columns).where(source.c.run == run, source.c.step.in_(steps))
    rows = [dict(row._mapping) for row in connection.execute(query.order_by(*source.primary_key.columns))]
    texts = {"operation", "figures"}
    return [{key: json.loads(value) if key in texts else value for key, value in row.items()} for row in rows]


def _means(connection: sa.Connection, run: str, step: int, parts: range | None) -> Row:
    """How many attempts saw the whole library or a part of it, and the mean of their rewards."""
    columns = schema.rollouts.c
    of_step = (columns.run == run, columns.phase == "rollout", columns.step == step)
    made: Row = {}
    saw_a_part = columns.attempt.in_(parts or ())
    for name, which in (("whole", ~saw_a_part), ("part", saw_a_part)):
        query = sa.select(sa.func.count(), sa.func.avg(columns.reward_value)).where(*of_step)
        attempts, mean = connection.execute(query if parts is None else query.where(which)).one()
        made[name] = {"attempts": attempts, "mean": mean}
    return made | ({"part": {"attempts": 0, "mean": None}} if parts is None else {})


def _winners(connection: sa.Connection, run: str, steps: Sequence[int]) -> dict[int, tuple[Row, ...]]:
    """By step, the groups whose rewards lie furthest apart, with all their attempts."""
    columns = schema.rollouts.c
    spread = sa.func.max(columns.reward_value) - sa.func.min(columns.reward_value)
    of_steps = (columns.run == run, columns.phase == "rollout", columns.step.in_(steps))
    query = sa.select(columns.step, columns.task, spread).where(*of_steps).group_by(columns.step, columns.task)
    wide: dict[int, list[tuple[float, str]]] = {}
    for step, task, distance in connection.execute(query):
        if distance:
            wide.setdefault(step, []).append((-distance, task))
    made: dict[int, tuple[Row, ...]] = {}
    for step, groups in wide.items():
        tasks = [task for _, task in sorted(groups)[:MOST_WINNERS]]
        attempts = (
            sa.select(columns.task, columns.attempt, columns.reward_value, columns.trouble)
            .where(columns.run == run, columns.phase == "rollout", columns.step == step, columns.task.in_(tasks))
            .order_by(columns.task, columns.attempt)
        )
        rewards: dict[str, dict[int, Any]] = {task: {} for task in tasks}
        for task, attempt, value, trouble in connection.execute(attempts):
            rewards[task][attempt] = value if value is not None else (trouble or "unscored").split(":", 1)[0]
        made[step] = tuple({"task": task, "rewards": marks, "best": _best(marks)} for task, marks in rewards.items())
    return made


def _best(marks: Mapping[int, Any]) -> list[int]:
    """The attempts of the highest reward."""
    most = max(value for value in marks.values() if not isinstance(value, str))
    return [attempt for attempt, value in marks.items() if value == most]


def _lessons(connection: sa.Connection, run: str, step: int) -> tuple[Row, ...]:
    columns = schema.advantages.c
    query = sa.select(columns.advantage).where(columns.run == run, columns.step == step).order_by(columns.task)
    told: list[Row] = []
    for text in connection.execute(query.limit(4 * MOST_CONTRASTS)).scalars():
        advantage = json.loads(text)
        if advantage["lessons"]:
            lessons = [line_of((name, words)) for name, words in advantage["lessons"]]
            told.append({"groups": advantage["groups"], "lessons": lessons})
    return tuple(told[:MOST_CONTRASTS])


def _changes(operations: Sequence[Row], library: Row, shipped: Row, end: Row) -> tuple[Change, ...]:
    before, ships_before = words_of(library), words_of(shipped)
    goes_on, ships = words_of(end["library"]), words_of(end["shipped"])
    words = dict(before)
    made: list[Change] = []
    for row in operations:
        operation, done = row["operation"], row["outcome"] == "done"
        ids, kind = tuple(row["ids"]), operation["op"]
        first = ids[0] if ids else ""
        old = words.get(first)
        new = (operation["name"] or (old[0] if old else ""), operation["text"]) if "text" in operation else None
        fate = ""
        if done and kind == "Delete":
            fate = (
                "ships" if first in ships_before and first not in ships else "" if first not in goes_on else "dropped"
            )
        elif done and new is not None:
            fate = "ships" if ships.get(first) == new else "open" if goes_on.get(first) == new else "dropped"
        carry_out(row, words)
        made.append(
            Change(
                op=kind,
                ids=ids,
                before=line_of(old),
                after=line_of(new),
                reason=row["reason"],
                done=done,
                measured=done and row["reason"].startswith("measured:"),
                fate=fate,
            )
        )
    return tuple(made)

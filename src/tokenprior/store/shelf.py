"""Shelf: the rollouts of a run, kept and found again by their place and a hash of all that went into them.

The place is phase, step, task and index; what went in is agent, task and prior. Every run of the same name is looked
at, so a changed setting re-uses what it did not touch. What there is for a step is asked for once, from an index; after
that only what is there is looked up, a group at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from tokenprior.models.base import Phase
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.store import codec, schema

T = TypeVar("T")

Kept = tuple[Rollout, str | None, Reward | None]  # with the fingerprint of the verifier that gave the reward


class Writing(Protocol):
    """Whoever carries out operations on the store, see `writer.Writer`."""

    async def run(self, operation: Callable[[sa.Connection], T]) -> T: ...


class RolloutShelf:
    """The places for rollouts that one run sees."""

    def __init__(self, writer: Writing, run: str, name: str) -> None:
        self._writer, self._run, self._name = writer, run, name
        # Of each phase the step that is being made: for what went in, the indices that there are.
        self._there: dict[Phase, tuple[int, dict[str, set[int]]]] = {}
        self._looking = asyncio.Lock()

    async def judged(self, phase: Phase, step: int) -> dict[str, int]:
        """By task, how many attempts of a step this run has with a reward that is a number, whatever went into them."""
        columns = schema.rollouts.c

        def read(connection: sa.Connection) -> dict[str, int]:
            rows = connection.execute(
                sa.select(columns.task, sa.func.count().label("attempts"))
                .where(columns.run == self._run, columns.phase == phase, columns.step == step)
                .where(columns.reward_value.is_not(None))
                .group_by(columns.task)
            )
            return {row.task: row.attempts for row in rows}

        return await self._writer.run(read)

    async def rewards(self, phase: Phase, step: int) -> dict[str, list[float | None]]:
        """The rewards of all attempts of a step by task, in the order of their index; `None` for those without one."""
        columns = schema.rollouts.c

        def read(connection: sa.Connection) -> dict[str, list[float | None]]:
            query = sa.select(columns.task, columns.reward_value)
            query = query.where(columns.run == self._run, columns.phase == phase, columns.step == step)
            found: dict[str, list[float | None]] = {}
            for task, value in connection.execute(query.order_by(columns.task, columns.attempt)):
                found.setdefault(task, []).append(value)
            return found

        return await self._writer.run(read)

    async def find(self, phase: Phase, step: int, task: str, made_of: Mapping[int, str]) -> dict[int, Kept]:
        """The attempts at a task that were made before, by index.

        Args:
            made_of: by the index of each wanted attempt, a hash of what goes into it.
        """
        there = await self._index(phase, step)
        wanted = {(index, hashed) for index, hashed in made_of.items() if index in there.get(hashed, ())}
        if not wanted:
            return {}
        columns = schema.rollouts.c

        def read(connection: sa.Connection) -> dict[int, Any]:
            rows = connection.execute(
                sa.select(schema.rollouts)
                .where(columns.name == self._name, columns.phase == phase, columns.step == step, columns.task == task)
                .where(columns.input_hash.in_({hashed for _, hashed in wanted}))
                .order_by((columns.run == self._run).desc(), columns.run)
            )
            found: dict[int, Any] = {}
            for row in rows:
                if (row.attempt, row.input_hash) in wanted:
                    found.setdefault(row.attempt, row)
            of_others = [dict(row._mapping) | {"run": self._run} for row in found.values() if row.run != self._run]
            if of_others:
                connection.execute(schema.rollouts.insert(), of_others)
            return found

        found = await self._writer.run(read)
        return {
            index: (
                codec.rollout_from_json(json.loads(row.rollout)),
                row.verifier,
                codec.reward_from_json(json.loads(row.reward)) if row.reward else None,
            )
            for index, row in found.items()
        }

    async def save(
        self, phase: Phase, step: int, made_of: str, rollout: Rollout, verifier: str | None, reward: Reward | None
    ) -> None:
        """Keep a rollout, and its reward once there is one."""
        attempt = codec.rollout_to_json(rollout)
        judged = codec.reward_to_json(reward) if reward else None
        value, trouble = codec.figures_of(attempt, judged)
        key = {
            "run": self._run,
            "phase": phase,
            "step": step,
            "task": rollout.task_id,
            "attempt": rollout.index,
            "input_hash": made_of,
        }
        values = {
            "name": self._name,
            "rollout": codec.dumps(attempt),
            "verifier": verifier,
            "reward": codec.dumps(judged) if judged else None,
            "reward_value": value,
            "trouble": trouble,
        }
        await self._writer.run(lambda connection: put(connection, schema.rollouts, key, values))
        there = await self._index(phase, step)
        there.setdefault(made_of, set()).add(rollout.index)

    async def _index(self, phase: Phase, step: int) -> dict[str, set[int]]:
        """For each hash of what went in, the indices that there are."""
        async with self._looking:
            if phase not in self._there or self._there[phase][0] != step:
                columns = schema.rollouts.c
                where = (columns.name == self._name, columns.phase == phase, columns.step == step)

                def read(connection: sa.Connection) -> dict[str, set[int]]:
                    found: dict[str, set[int]] = {}
                    for hashed, index in connection.execute(
                        sa.select(columns.input_hash, columns.attempt).where(*where)
                    ):
                        found.setdefault(hashed, set()).add(index)
                    return found

                self._there[phase] = step, await self._writer.run(read)
            return self._there[phase][1]


def put(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write a row under its natural key, the same however often it is done. There is one writer, so no race."""
    update, insert = _statements(table, tuple(key))
    at = {f"at_{column}": value for column, value in key.items()}
    if connection.execute(update, {**at, **values}).rowcount == 0:
        connection.execute(insert, {**key, **values})


@lru_cache(maxsize=64)
def _statements(table: sa.Table, key: tuple[str, ...]) -> tuple[sa.Update, sa.Insert]:
    """Written out once: to make a statement anew takes ten times as long as to carry it out."""
    where = [table.c[column] == sa.bindparam(f"at_{column}") for column in key]
    return table.update().where(*where), table.insert()

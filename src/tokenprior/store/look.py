"""Look: what the pages ask of a store. Every answer is bounded, and counts come from indexes, not from texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.rollout import Usage
from tokenprior.store import schema
from tokenprior.store.record import RunRecord

if TYPE_CHECKING:
    from tokenprior.store.open import Store

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """A run in a list.

    Attributes:
        doing: of a run on its way: where it stands, in words.
        gain: with its interval, of the newest comparison of the same name: the first arm against the baseline.
        outcome: of that comparison, as `Difference.outcome` has it.
        spent: tokens and money so far.
    """

    run: RunRecord
    doing: str
    gain: Mapping[str, Any] | None
    outcome: str
    spent: Usage

    @property
    def data(self) -> str:
        """The file of its tasks, or of the attempts that it learns from."""
        config = self.run.config
        return str(((config.get("tasks") or config.get("logs")) or {}).get("path", ""))

    @property
    def agent(self) -> str:
        """What makes the attempts."""
        agent = self.run.config.get("agent") or {}
        return str(agent.get("model") or agent.get("function") or " ".join(agent.get("command") or ()) or "–")

    @property
    def learner(self) -> str:
        """The model that writes the lessons; empty where the agent's own does."""
        return str(self.run.config.get("learner") or "")


def runs(
    store: Store, *, before: tuple[float, str] | None = None, since: float | None = None, limit: int
) -> list[RunLine]:
    """Some runs, the newest first.

    Args:
        before: beginning and id of the run behind which the list goes on.
        since: only those that changed after it, in seconds since 1970.
    """
    columns = schema.runs.c

    def read(connection: sa.Connection) -> list[RunLine]:
        query = sa.select(schema.runs).order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
        if before is not None:
            at, run = before
            query = query.where((columns.created_at < at) | ((columns.created_at == at) & (columns.id < run)))
        if since is not None:
            query = query.where(columns.updated_at > since)
        found = [RunRecord.of(row._mapping) for row in connection.execute(query)]
        spent = _spent(connection, [run.id for run in found])
        compared = _compared(connection, found)
        return [
            RunLine(
                run=run,
                doing=doing(run),
                gain=compared.get(run.id, {}).get("gain"),
                outcome=compared.get(run.id, {}).get("outcome", ""),
                spent=spent.get(run.id, Usage()),
            )
            for run in found
        ]

    return store.read(read)


def doing(run: RunRecord) -> str:
    """Where a run on its way stands, in words; empty for one that is not."""
    at = run.progress
    if run.state != "running" or not at:
        return ""
    parts = [f"step {at['step']} of {at['steps']}, {at['phase']}" if at["step"] else at["phase"]]
    if at["total"]:
        parts.append(f"{at['done']} of {at['total']} attempts")
    return ": ".join(parts)


def _spent(connection: sa.Connection, runs: Sequence[str]) -> dict[str, Usage]:
    columns = schema.calls.c
    query = (
        sa.select(
            columns.run,
            sa.func.count(),
            sa.func.sum(columns.input_tokens),
            sa.func.sum(columns.output_tokens),
            sa.func.sum(columns.cached_tokens),
            sa.func.sum(columns.cost_usd),
            sa.func.count(columns.cost_usd),
        )
        .where(columns.run.in_(runs))
        .group_by(columns.run)
    )
    return {
        run: Usage(
            calls=calls,
            input_tokens=read,
            output_tokens=written,
            cached_tokens=cached,
            cost_usd=(cost or 0.0) if priced == calls else None,
        )
        for run, calls, read, written, cached, cost, priced in connection.execute(query)
    }


def _compared(connection: sa.Connection, runs: Sequence[RunRecord]) -> dict[str, Row]:
    """By run, the first difference of its own comparison, or of the newest of its name."""
    table, of = schema.comparisons, schema.runs
    query = (
        sa.select(of.c.id, of.c.name, table.c.comparison)
        .join(table, table.c.run == of.c.id)
        .where(of.c.name.in_({run.name for run in runs}))
        .order_by(of.c.created_at)
    )
    own: dict[str, Row] = {}
    newest: dict[str, Row] = {}
    for run, name, text in connection.execute(query):
        differences = json.loads(text)["differences"]
        if differences:
            own[run] = newest[name] = differences[0]
    found = {run.id: newest.get(run.name) if run.kind == "learn" else own.get(run.id) for run in runs}
    return {run: difference for run, difference in found.items() if difference}

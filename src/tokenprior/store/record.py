"""Record: what one run writes down, and finds again when it goes on.

Two ways back to work that was paid for. A whole rollout is found by its place (phase, step, task, index) and a hash of
all that went into it: agent, task, prior. A single call is found by its key and the hash of its request. Both look
at every run of the same name, so a changed setting re-uses what it did not touch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tokenprior.advantage import Advantage
from tokenprior.effects import Observation
from tokenprior.library import Applied, Library
from tokenprior.operation import to_json
from tokenprior.progress import Progress
from tokenprior.redact import redact
from tokenprior.rollout import Usage
from tokenprior.store import codec, schema
from tokenprior.store.batches import RunBatches
from tokenprior.store.ledger import CallLedger
from tokenprior.store.lock import RunLock
from tokenprior.store.server_lock import RunWriter, ServerLock
from tokenprior.store.shelf import RolloutShelf, put
from tokenprior.store.writer import Writer
from tokenprior.tools.base import ToolResult
from tokenprior.trial import Trial

NOTE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as the store knows it.

    Attributes:
        state: `running`, `done`, `stopped` (budget or Ctrl-C; goes on with the same command), `failed`, or `moving` (to
            another store; `archive` goes on with that).
        start: the library that it began with.
        updated_at: when it was last known to be alive; of a run that has ended, when it did.
        progress: the last snapshot of a run that is on its way, as `Progress` has it; empty before there is one.
    """

    id: str
    name: str
    kind: str
    state: str
    detail: str
    config: dict[str, Any]
    created_at: float
    updated_at: float
    start: Library
    progress: dict[str, Any]

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> RunRecord:
        start = Library.from_json(json.loads(row["start"])) if row["start"] else Library()
        progress = json.loads(row["progress"]) if row["progress"] else {}
        return cls(**{**row, "config": json.loads(row["config"]), "start": start, "progress": progress})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """Where a run stands after a step.

    Attributes:
        library: what learning goes on from.
        shipped: what is used.
        observations: of this step.
        report: its figures, see `docs/formats.md`.
    """

    library: Library
    shipped: Library
    observations: tuple[Observation, ...] = ()
    report: dict[str, Any]


class RunStore(CallLedger):
    """The store as one run sees it: a ledger of calls, and places for rollouts, advantages and steps."""

    _writer: Writer | RunWriter

    def __init__(self, writer: Writer | RunWriter, run: str, name: str, lock: RunLock | ServerLock) -> None:
        super().__init__(writer, run, name)
        self._lock = lock
        self.shelf = RolloutShelf(writer, run, name)
        self.batches = RunBatches(writer, run, name, on_end=self.look_again)
        self._noted = ("", 0.0)

    def close(self, state: str, detail: str = "") -> None:
        """Note how the run ended, and let go of it."""

        def write(connection: sa.Connection) -> None:
            changed = {"state": state, "detail": codec.plain(redact(detail)), "updated_at": time.time()}
            connection.execute(schema.runs.update().where(schema.runs.c.id == self.run).values(changed))

        try:
            self._writer.run_now(write)
        finally:
            self._lock.release()

    def note(self, progress: Progress) -> None:
        """Leave word of where the run stands, about once a second; nobody waits for it."""
        now = time.monotonic()
        if progress.phase == self._noted[0] and now - self._noted[1] < NOTE_EVERY_S:
            return
        self._noted = (progress.phase, now)
        values = {"progress": codec.dumps(asdict(progress)), "updated_at": time.time()}
        where = schema.runs.c.id == self.run
        self._writer.leave(lambda connection: connection.execute(schema.runs.update().where(where).values(values)))

    def spent(self) -> Usage:
        """What this run has used so far, calls in doubt included at what they had reserved."""
        columns = schema.calls.c

        def read(connection: sa.Connection) -> Usage:
            count, tokens_in, tokens_out, cached, cost, priced = connection.execute(
                sa.select(
                    sa.func.count(),
                    sa.func.coalesce(sa.func.sum(columns.input_tokens), 0),
                    sa.func.coalesce(sa.func.sum(columns.output_tokens), 0),
                    sa.func.coalesce(sa.func.sum(columns.cached_tokens), 0),
                    sa.func.coalesce(sa.func.sum(columns.cost_usd), 0.0),
                    sa.func.count(columns.cost_usd),
                ).where(columns.run == self.run)
            ).one()
            return Usage(
                calls=count,
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                cached_tokens=cached,
                cost_usd=cost if priced == count else None,
            )

        return self._writer.run_now(read)

    # Calls of tools (tools.base.ToolLedger).

    async def tool_call_begun(
        self, place: str, made_of: str, tool: str, arguments: str
    ) -> ToolResult | Literal["doubt"] | None:
        table = schema.tool_calls
        key = {"run": self.run, "place": place, "made_of": made_of}
        own = table.c.run == self.run

        def write(connection: sa.Connection) -> Any:
            known = connection.execute(
                sa.select(table.c.run, table.c.state, table.c.result)
                .join(schema.runs, schema.runs.c.id == table.c.run)
                .where(schema.runs.c.name == self.name, table.c.place == place, table.c.made_of == made_of)
                .order_by(own.desc(), (table.c.state == "done").desc(), table.c.run)
                .limit(1)
            ).first()
            if known is None or known.run != self.run:
                state = {"state": known.state if known else "sent", "result": known.result if known else None}
                values = {"tool": tool, "arguments": codec.dumps(codec.redacted(arguments)), "sent_at": time.time()}
                connection.execute(table.insert().values(key | values | state))
            return known

        found = await self._writer.run(write)
        if found is None:
            return None
        return codec.tool_result_from_json(json.loads(found.result)) if found.state == "done" else "doubt"

    async def tool_call_ended(self, place: str, made_of: str, result: ToolResult) -> None:
        key = {"run": self.run, "place": place, "made_of": made_of}
        values = {"state": "done", "result": codec.dumps(codec.tool_result_to_json(result))}
        table = schema.tool_calls
        where = [table.c[column] == value for column, value in key.items()]
        await self._writer.run(lambda connection: connection.execute(table.update().where(*where).values(values)))

    # Advantages, steps, evaluations.

    async def save_start(self, library: Library) -> None:
        """Keep the library that learning begins with."""
        values = {"start": codec.dumps(library.to_json())}
        where = schema.runs.c.id == self.run
        await self._writer.run(lambda connection: connection.execute(schema.runs.update().where(where).values(values)))

    async def save_advantage(self, step: int, advantage: Advantage) -> None:
        """Keep what a group taught."""
        key = {"run": self.run, "step": step, "task": advantage.groups[0]}
        values = {"advantage": codec.dumps(codec.advantage_to_json(advantage))}
        await self._writer.run(lambda connection: put(connection, schema.advantages, key, values))

    async def save_step(self, step: int, epoch: int, applied: Applied, trials: Sequence[Trial], end: StepEnd) -> None:
        """Keep a step in one transaction: how it ended, its operations, what was refused, its trials."""
        outcomes = [(to_json(done), "done", done.reason) for done in applied.done]
        outcomes += [(to_json(refused.operation), "refused", refused.reason) for refused in applied.refused]

        def write(connection: sa.Connection) -> None:
            at = {"run": self.run, "step": step}
            values = {
                "epoch": epoch,
                "library_version": end.library.version,
                "library": codec.dumps(end.library.to_json()),
                "report": codec.dumps(end.report),
                "shipped_version": end.shipped.version,
                "shipped": codec.dumps(end.shipped.to_json()),
                "observations": codec.dumps(codec.observations_to_json(end.observations)),
            }
            put(connection, schema.steps, at, values)
            for sequence, (operation, outcome, reason) in enumerate(outcomes):
                body = {"operation": codec.dumps(operation), "outcome": outcome, "reason": codec.plain(reason)}
                put(connection, schema.operations, at | {"sequence": sequence}, body)
            for sequence, trial in enumerate(trials):
                body = {
                    "candidate_version": trial.candidate.version,
                    "candidate": codec.dumps(trial.candidate.to_json()),
                    "figures": codec.dumps(trial.to_json()),
                }
                put(connection, schema.trials, at | {"sequence": sequence}, body)

        await self._writer.run(write)

    async def finished_step(self, step: int) -> StepEnd | None:
        """How a step ended that this run has finished before."""
        columns = schema.steps.c

        def read(connection: sa.Connection) -> Any:
            return connection.execute(
                sa.select(columns.library, columns.shipped, columns.observations, columns.report).where(
                    columns.run == self.run, columns.step == step
                )
            ).first()

        found = await self._writer.run(read)
        if found is None:
            return None
        return StepEnd(
            library=Library.from_json(json.loads(found.library)),
            shipped=Library.from_json(json.loads(found.shipped)),
            observations=codec.observations_from_json(json.loads(found.observations)),
            report=json.loads(found.report),
        )

    async def save_evaluation(self, arm: str, library_version: str, report: Mapping[str, Any]) -> None:
        """Keep what an arm scored."""
        values = {"library_version": library_version, "report": codec.dumps(report)}
        key = {"run": self.run, "arm": arm}
        await self._writer.run(lambda connection: put(connection, schema.evaluations, key, values))

    async def save_comparison(self, comparison: Mapping[str, Any]) -> None:
        """Keep what a comparison found, as `Comparison.to_json` gives it; of the arms their names, in order."""
        value = {**comparison, "arms": [arm["arm"] for arm in comparison["arms"]]}
        values = {"comparison": codec.dumps(value)}
        await self._writer.run(lambda connection: put(connection, schema.comparisons, {"run": self.run}, values))

"""Look: what the pages ask of a store. Every answer is bounded, and counts come from indexes, not from texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.adaptive import GroupPlan
from tokenprior.rollout import Usage
from tokenprior.statistics import Interval, t_mean
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
        edited: whether what is used was edited by hand.
    """

    run: RunRecord
    doing: str
    gain: Mapping[str, Any] | None
    outcome: str
    spent: Usage
    edited: bool = False

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
        edited = _edited(connection, [run.id for run in found])
        return [
            RunLine(
                run=run,
                doing=doing(run),
                gain=compared[run.id][1]["gain"] if run.id in compared else None,
                outcome=compared[run.id][1]["outcome"] if run.id in compared else "",
                spent=spent.get(run.id, Usage()),
                edited=run.id in edited,
            )
            for run in found
        ]

    return store.read(read)


def _edited(connection: sa.Connection, runs: Sequence[str]) -> set[str]:
    """Of some runs those whose used library came of an edit by hand: edits are pinned."""
    pins, edits = schema.pins.c, schema.edits.c
    newest = sa.select(pins.run, sa.func.max(pins.sequence)).where(pins.run.in_(runs)).group_by(pins.run)
    query = (
        sa.select(pins.run)
        .join(schema.edits, (edits.run == pins.run) & (edits.edited_version == pins.version))
        .where(sa.tuple_(pins.run, pins.sequence).in_(newest))
    )
    return set(connection.execute(query).scalars())


def doing(run: RunRecord) -> str:
    """Where a run on its way stands, in words; empty for one that is not."""
    at = run.progress
    if run.state != "running" or not at:
        return ""
    parts = [f"step {at['step']} of {at['steps']}, {at['phase']}" if at["step"] else at["phase"]]
    if at["total"]:
        parts.append(f"{at['done']} of {at['total']} attempts")
    if waiting := at.get("waiting"):
        parts.append(waiting)
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


def _compared(connection: sa.Connection, runs: Sequence[RunRecord]) -> dict[str, tuple[str, Row]]:
    """By run, its own comparison or the newest of its name: the run that made it, and its first difference."""
    table, of = schema.comparisons, schema.runs
    query = (
        sa.select(of.c.id, of.c.name, table.c.comparison)
        .join(table, table.c.run == of.c.id)
        .where(of.c.name.in_({run.name for run in runs}))
        .order_by(of.c.created_at, of.c.id)
    )
    own: dict[str, tuple[str, Row]] = {}
    newest: dict[str, tuple[str, Row]] = {}
    for run, name, text in connection.execute(query):
        differences = json.loads(text)["differences"]
        if differences:
            own[run] = newest[name] = (run, differences[0])
    found = {run.id: newest.get(run.name) if run.kind == "learn" else own.get(run.id) for run in runs}
    return {run: difference for run, difference in found.items() if difference}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a run stands, as far as it can be told without counting its attempts.

    Attributes:
        finished: steps.
        mean: reward of the last of them, as its report has it.
        compared: the newest comparison of its name, if one is finished, and its first difference.
        spent: so far; of a run on its way as it last said.
    """

    finished: int
    mean: float | None
    compared: tuple[str, Row] | None
    spent: Usage


def standing(store: Store, run: RunRecord) -> Standing:
    """Where a run stands."""
    columns = schema.steps.c

    def read(connection: sa.Connection) -> Standing:
        finished = connection.execute(sa.select(sa.func.count(columns.step)).where(columns.run == run.id)).scalar_one()
        last = sa.select(columns.report).where(columns.run == run.id).order_by(columns.step.desc()).limit(1)
        report = connection.execute(last).scalar()
        said = run.progress.get("spent") if run.state == "running" else None
        return Standing(
            finished=finished,
            mean=json.loads(report)["mean"] if report else None,
            compared=_compared(connection, [run]).get(run.id),
            spent=Usage(**said) if said else _spent(connection, [run.id]).get(run.id, Usage()),
        )

    return store.read(read)


MOST_STEPS = 500  # in a curve

# Phases whose calls belong to a step; those of the gate and of an evaluation serve all steps, and are counted as of 0.
OF_A_STEP = ("rollout", "judge", "summary", "contrast", "revise")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """A finished step in figures.

    Attributes:
        report: as the step left it, see `docs/formats.md`.
        shipped: the version that is used after it.
        practice: mean reward over tasks that were visited, of the attempts that saw the whole library.
        gate: the gain of the whole candidate over what shipped, with its figures; `None` where nothing was tried.
        spent: by its attempts and by what was asked of the learning model.
    """

    step: int
    report: Row
    shipped: str
    practice: Interval | None
    gate: Row | None
    spent: Usage


def steps(store: Store, run: str, *, plan: GroupPlan | None) -> list[StepFigures]:
    """The newest `MOST_STEPS` finished steps of a run, in their order.

    Args:
        plan: of its groups, if it is known: practice is that of the attempts that are made in every group and see the
            whole library, or of all, if there are none.
    """
    whole = plan.whole if plan else 0
    columns, rollouts, trials = schema.steps.c, schema.rollouts.c, schema.trials.c

    def read(connection: sa.Connection) -> list[StepFigures]:
        query = sa.select(columns.step, columns.report, columns.shipped_version).where(columns.run == run)
        found = connection.execute(query.order_by(columns.step.desc()).limit(MOST_STEPS)).all()
        means = (
            sa.select(rollouts.step, sa.func.avg(rollouts.reward_value))
            .where(rollouts.run == run, rollouts.phase == "rollout", rollouts.reward_value.is_not(None))
            .group_by(rollouts.step, rollouts.task)
            .order_by(rollouts.step, rollouts.task)
        )
        values: dict[int, list[float]] = {}
        for step, mean in connection.execute(means.where(rollouts.attempt < whole) if whole else means):
            values.setdefault(step, []).append(mean)
        tried = sa.select(trials.step, trials.figures).where(trials.run == run, trials.sequence == 0)
        gate = {step: json.loads(figures) for step, figures in connection.execute(tried)}
        spent = {step: usage for (phase, step), usage in _by_phase(connection, run).items() if phase == "step"}
        return [
            StepFigures(
                step=row.step,
                report=json.loads(row.report),
                shipped=row.shipped_version,
                practice=t_mean(values[row.step]) if row.step in values else None,
                gate=gate.get(row.step),
                spent=spent.get(row.step, Usage()),
            )
            for row in reversed(found)
        ]

    return store.read(read)


def was_tried(store: Store, run: str) -> bool:
    """Whether anything of a run was tried at the gate."""
    query = sa.select(schema.trials.c.step).where(schema.trials.c.run == run).limit(1)
    return store.read(lambda connection: connection.execute(query).first() is not None)


def _by_phase(connection: sa.Connection, run: str) -> dict[tuple[str, int], Usage]:
    """What calls took, by phase and step; under the phase `step` all of a step together."""
    columns = schema.calls.c
    sums = [sa.func.sum(columns[name]) for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_usd")]
    query = (
        sa.select(columns.phase, columns.step, sa.func.count(), *sums, sa.func.count(columns.cost_usd))
        .where(columns.run == run)
        .group_by(columns.phase, columns.step)
        .order_by(columns.phase, columns.step)
    )
    made: dict[tuple[str, int], Usage] = {}
    for phase, step, calls, read, written, cached, cost, priced in connection.execute(query):
        usage = Usage(
            calls=calls,
            input_tokens=read,
            output_tokens=written,
            cached_tokens=cached,
            cost_usd=(cost or 0.0) if priced == calls else None,
        )
        made[phase, step] = usage
        if phase in OF_A_STEP:
            made["step", step] = made.get(("step", step), Usage()) + usage
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """A run in a few figures.

    Attributes:
        attempts: by phase, how many there are, and how many of them have a reward.
        troubles: by phase and reason, how many have none.
        spent: by phase.
    """

    attempts: dict[str, tuple[int, int]]
    troubles: dict[tuple[str, str], int]
    spent: dict[str, Usage]

    @property
    def all_spent(self) -> Usage:
        total = Usage()
        for usage in self.spent.values():
            total += usage
        return total


def totals(store: Store, run: str) -> Totals:
    """Attempts, what went wrong with them, and what calls took."""
    columns = schema.rollouts.c

    def read(connection: sa.Connection) -> Totals:
        query = (
            sa.select(columns.phase, columns.trouble, sa.func.count(), sa.func.count(columns.reward_value))
            .where(columns.run == run)
            .group_by(columns.phase, columns.trouble)
            .order_by(columns.phase, sa.func.coalesce(columns.trouble, ""))
        )
        attempts: dict[str, tuple[int, int]] = {}
        troubles: dict[tuple[str, str], int] = {}
        for phase, trouble, count, scored in connection.execute(query):
            every, rewarded = attempts.get(phase, (0, 0))
            attempts[phase] = (every + count, rewarded + scored)
            if trouble:
                troubles[phase, trouble] = count
        spent: dict[str, Usage] = {}
        for (phase, _), usage in _by_phase(connection, run).items():
            if phase != "step":
                spent[phase] = spent.get(phase, Usage()) + usage
        return Totals(attempts=attempts, troubles=troubles, spent=spent)

    return store.read(read)


Place = tuple[str, int, str, int, str]  # phase, step, task, attempt and what it was made of: names an attempt of a run


def troubled(store: Store, run: str, phase: str, trouble: str, *, after: Place | None, limit: int) -> list[Row]:
    """Attempts without a reward for one reason, in the order of their places.

    Args:
        after: the place behind which the list goes on.
    """
    columns = schema.rollouts.c
    place = (columns.phase, columns.step, columns.task, columns.attempt, columns.input_hash)

    def read(connection: sa.Connection) -> list[Row]:
        query = sa.select(*place, columns.rollout, columns.reward).where(
            columns.run == run, columns.phase == phase, columns.trouble == trouble
        )
        if after is not None:
            query = query.where(sa.tuple_(*place) > sa.tuple_(*map(sa.literal, after)))
        found = connection.execute(query.order_by(*place).limit(limit)).all()
        return [_troubled(row._mapping) for row in found]

    return store.read(read)


def _troubled(row: Mapping[Any, Any]) -> Row:
    """An attempt with what is known of why it has no reward."""
    rollout, reward = json.loads(row["rollout"]), json.loads(row["reward"]) if row["reward"] else {}
    failure = rollout["failure"]
    why = f"{failure[0]}: {failure[1]}" if failure else reward.get("reason", "")
    names = ("phase", "step", "task", "attempt", "input_hash")
    return {name: row[name] for name in names} | {"why": why}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What an arm scored in a comparison.

    Attributes:
        run: of the comparison.
        report: as `ArmReport.to_json` has it, without the rewards of its tasks.
        difference: from the baseline, as in the comparison; empty for the baseline itself.
    """

    run: str
    arm: str
    report: Row
    difference: Row


def held_out(store: Store, name: str) -> list[HeldOut]:
    """Scores of the newest 20 finished comparisons of a name, the newest first, arms in the order of their names."""
    of, table, arms = schema.runs.c, schema.comparisons, schema.evaluations.c

    def read(connection: sa.Connection) -> list[HeldOut]:
        query = sa.select(of.id, table.c.comparison).join(schema.runs, table.c.run == of.id).where(of.name == name)
        made: list[HeldOut] = []
        for run, text in connection.execute(query.order_by(of.created_at.desc(), of.id.desc()).limit(20)).all():
            differences = {one["arm"]: one for one in json.loads(text)["differences"]}
            reports = sa.select(arms.arm, arms.report).where(arms.run == run).order_by(arms.arm)
            for arm, report in connection.execute(reports):
                short = {key: value for key, value in json.loads(report).items() if key != "tasks"}
                made.append(HeldOut(run=run, arm=arm, report=short, difference=differences.get(arm, {})))
        return made

    return store.read(read)

"""Compared: what comparisons found, put together again from the store without asking a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.prior import parted
from tokenprior.rollout import Message
from tokenprior.store import schema
from tokenprior.store.open import library_in
from tokenprior.store.record import RunRecord
from tokenprior.task import content_hash

if TYPE_CHECKING:
    from tokenprior.store.open import Store

Row = dict[str, Any]


def comparison_of(store: Store, run: str) -> Row | None:
    """What `Comparison.to_json` gave when a comparison ended.

    Returns:
        `None` for a run that is no comparison, is not finished, or was made before comparisons were kept whole.
    """
    kept = store.rows("comparisons", run)
    if not kept:
        return None
    reports = {row["arm"]: row["report"] for row in store.rows("evaluations", run)}
    comparison: Row = kept[0]["comparison"]
    return comparison | {"arms": [reports[arm] for arm in comparison["arms"]]}


def comparisons_of(store: Store, name: str, *, limit: int) -> list[Row]:
    """The finished comparisons of a name, the newest first: `run`, `created_at`, and the `verdicts`."""
    of, table = schema.runs.c, schema.comparisons

    def read(connection: sa.Connection) -> list[Row]:
        query = (
            sa.select(of.id, of.created_at, table.c.comparison)
            .join(schema.runs, table.c.run == of.id)
            .where(of.name == name)
            .order_by(of.created_at.desc(), of.id.desc())
            .limit(limit)
        )
        return [
            {"run": run, "created_at": at, "verdicts": [one["verdict"] for one in json.loads(text)["differences"]]}
            for run, at, text in connection.execute(query)
        ]

    return store.read(read)


def not_measured(store: Store, run: RunRecord, comparison: str) -> str:
    """That what is used now is not what a comparison measured, in words; empty where it is.

    Args:
        run: that learned, or a comparison: then the newest that learned under its name.
        comparison: the run that made it.
    """
    of, arms, edits = schema.runs.c, schema.evaluations.c, schema.edits.c

    def read(connection: sa.Connection) -> str:
        named = sa.select(of.id).where(of.name == run.name, of.kind == "learn").order_by(of.created_at.desc()).limit(1)
        learned = run.id if run.kind == "learn" else connection.execute(named).scalar()
        kept = schema.comparisons.c
        text = connection.execute(sa.select(kept.comparison).where(kept.run == comparison)).scalar()
        compared = [one["arm"] for one in json.loads(text)["differences"]] if text else []
        query = sa.select(arms.library_version).where(arms.run == comparison, arms.arm.in_(compared))
        measured = sorted(set(connection.execute(query).scalars()))
        used = library_in(connection, learned) if learned else None
        if used is None or not measured or used.version in measured:
            return ""
        by_hand = sa.select(edits.author).where(edits.run == learned, edits.edited_version == used.version)
        author = connection.execute(by_hand.order_by(edits.sequence.desc()).limit(1)).scalar()
        how = f"was edited by hand by {author}" if author else "is another library"
        return f"Measured with {', '.join(measured)}. What is used now, {used.version}, {how} and is not measured."

    return store.read(read)


def attempts_by_arm(comparison: Row, rows: Sequence[Row], task: str) -> dict[str, list[Row]]:
    """The attempts at a task that each arm made; arms of equal words share theirs.

    An attempt does not know its arm. It is told by the prior in its system prompt, and where that cannot be (the prior
    is chosen for the task, or the agent hides its prompts) by the rewards that the arm reported.

    Args:
        rows: the attempts at the task, as `attempts_of` gives them.
    """
    made_alike: dict[str, list[Row]] = {}
    for row in rows:
        made_alike.setdefault(row["input_hash"], []).append(row)
    found: dict[str, list[Row]] = {}
    for arm in comparison["arms"]:
        reported = arm["tasks"].get(task)
        fits = [some for some in made_alike.values() if [row["reward_value"] for row in some] == reported]
        same_words = [some for some in fits or made_alike.values() if _prior_of(some[0]) == arm.get("prior")]
        found[arm["arm"]] = next(iter(same_words or fits), [])
    return found


def _prior_of(row: Row) -> str:
    """The hash of the words of the prior that an attempt saw."""
    messages = [Message.from_json(value) for value in row["rollout"]["messages"][:1]]
    system = messages[0].content if messages and messages[0].role == "system" else ""
    return content_hash(parted(system)[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One way to settle a difference as large as the one that was seen, and about what it takes.

    Attributes:
        what: in words.
        attempts: in both arms together.
        usd: `None` where the price is not known.
        seconds: of work, one attempt after another.
    """

    what: str
    attempts: int
    tokens: int
    usd: float | None
    seconds: float


def more_evidence(comparison: Row, difference: Row) -> list[Evidence]:
    """What would settle a difference that is not settled, priced by what the attempts of its two arms took."""
    if difference["outcome"] != "unclear" or not difference["gain"]:
        return []
    arms = {arm["arm"]: arm for arm in comparison["arms"]}
    pair = [arms[difference["arm"]], arms[difference["baseline"]]]
    k, n = comparison["k"], difference["gain"]["tasks"]
    ways: list[tuple[str, int]] = []
    if (difference["tasks_needed"] or 0) > n:
        more = difference["tasks_needed"] - n
        ways.append((f"{more:,} more task{'s' if more > 1 else ''}, with as many attempts at each", more * k))
    if (difference["attempts_needed"] or 0) > k:
        more = difference["attempts_needed"] - k
        ways.append((f"{more:,} more attempt{'s' if more > 1 else ''} at each of these {n} tasks", more * n))
    return [_priced(what, attempts, pair) for what, attempts in ways]


def _priced(what: str, attempts: int, arms: Sequence[Row]) -> Evidence:
    """So many attempts in each of the arms."""
    tokens = usd = seconds = 0.0
    known = True
    for arm in arms:
        made = arm["scored"] + arm["unscored"] + sum(arm["failed"].values()) or 1
        tokens += attempts * (arm["input_tokens"] + arm["output_tokens"]) / made
        seconds += attempts * arm["latency_s"]
        known = known and arm["cost_usd"] is not None
        usd += attempts * (arm["cost_usd"] or 0.0) / made
    return Evidence(
        what=what, attempts=attempts * len(arms), tokens=round(tokens), usd=usd if known else None, seconds=seconds
    )

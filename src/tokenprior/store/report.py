"""Report: a learning run as one JSON value, for a page that is sent to somebody who has no store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tokenprior.adaptive import GroupPlan
from tokenprior.experience import Effect, Experience
from tokenprior.library import Library
from tokenprior.statistics import Interval
from tokenprior.store import look
from tokenprior.store.compared import comparison_of, comparisons_of, not_measured
from tokenprior.store.life import effects_of
from tokenprior.store.record import RunRecord
from tokenprior.store.story import Chapter, story_of

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_CHAPTERS = 100

Row = dict[str, Any]


def report_of(store: Store, run: RunRecord, *, plan: GroupPlan | None, gated: bool) -> Row:
    """All that is worth telling of a learning run; of a comparison what `comparison_of` gives.

    Args:
        plan: of its groups, if it is known.
        gated: whether what was learned had to pass a gate.
    """
    ends = store.rows("steps", run.id)
    effects = effects_of(ends)
    used = store.library(run.id)
    learning = Library.from_json(ends[-1]["library"]) if ends else used
    waiting = [learning[i] for part in used.changes(learning) for i in part if i in learning]
    newest = comparisons_of(store, run.name, limit=1)
    totals = look.totals(store, run.id)
    spent = totals.all_spent
    return {
        "run": run.id,
        "name": run.name,
        "state": run.state,
        "detail": run.detail,
        "made": circumstances(run),
        "spent": {
            "tokens_in": spent.input_tokens,
            "tokens_cached": spent.cached_tokens,
            "tokens_out": spent.output_tokens,
            "cost_usd": spent.cost_usd,
        },
        "attempts": sum(count for count, _ in totals.attempts.values()),
        "troubles": [
            {"phase": phase, "trouble": trouble, "count": count}
            for (phase, trouble), count in sorted(totals.troubles.items())
        ],
        "gated": gated,
        "version": used.version,
        "used": _lessons(used, effects),
        "waiting": _lessons(waiting, effects),
        "steps": [_step(one) for one in look.steps(store, run.id, plan=plan)],
        "story": [_chapter(one) for one in story_of(store, run.id, limit=MOST_CHAPTERS, plan=plan)],
        "comparison": comparison_of(store, newest[0]["run"]) if newest else None,
        "not_measured": not_measured(store, run, newest[0]["run"]) if newest else "",
        "edited": _edited(store, run.id, used.version),
    }


def _edited(store: Store, run: str, version: str) -> str:
    """By whom and why a version was made by hand, in words; empty for what nobody made so."""
    rows = [row for row in store.rows("edits", run, without=("edited",)) if row["edited_version"] == version]
    return f"edited by hand by {rows[-1]['author']}: {rows[-1]['reason']}" if rows else ""


def circumstances(run: RunRecord) -> Row:
    """When and of what a run was made, as far as the store knows; never a path."""
    config: Mapping[str, Any] = run.config
    agent, verifier = config.get("agent") or {}, config.get("verifier") or {}
    temperature = (config.get("evaluate") or {}).get("temperature")
    return {
        "name": run.name,
        "date": date_words(run.created_at),
        "model": str(agent.get("model") or agent.get("kind") or ""),
        "temperature": "" if temperature is None or run.kind == "learn" else temperature,
        "verifier": str(verifier.get("kind", "")),
    }


def date_words(at: float) -> str:
    """A moment in seconds since 1970."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _lessons(lessons: Iterable[Experience], effects: Mapping[tuple[str, str], Effect]) -> list[Row]:
    made: list[Row] = []
    for one in lessons:
        effect = effects.get((one.id, one.line)) or one.effect
        origin = one.provenance
        made.append(
            {
                "id": one.id,
                "name": one.name,
                "text": one.text,
                "effect": asdict(effect) if effect else None,
                "groups": one.support,
                "step": origin.step,
                "operation": origin.operation,
                "reason": origin.reason,
            }
        )
    return made


def _step(one: look.StepFigures) -> Row:
    gain = one.gate["gain"] if one.gate else None
    return {
        "step": one.step,
        "practice": _interval(one.practice),
        "gate": gain,
        "groups": one.report["groups"],
        "lessons": one.report["lessons"],
        "experiences": one.report["experiences"],
        "tokens": one.spent.input_tokens + one.spent.output_tokens,
        "tokens_cached": one.spent.cached_tokens,
        "cost_usd": one.spent.cost_usd,
    }


def _interval(interval: Interval | None) -> Row | None:
    return None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _chapter(one: Chapter) -> Row:
    return {
        "step": one.step,
        "rollouts": one.report["rollouts"],
        "tasks": one.report["tasks"],
        "means": one.means,
        "groups": one.report["groups"],
        "experiences": one.experiences,
        "drawn": one.report["lessons"],
        "drops": one.report["drops"],
        "changes": [asdict(change) for change in one.changes],
        "trials": list(one.trials),
        "shipped_before": one.shipped_before,
        "shipped_after": one.shipped_after,
    }

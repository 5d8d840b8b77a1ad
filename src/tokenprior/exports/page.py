"""A comparison, or a run with its story, as one page for a browser: no script, nothing from the network, every text
escaped.

The pages are made of JSON alone, that of a `Comparison` or of a report of a run, so an old report can be shown again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenprior.comparison import task_gains
from tokenprior.plot import (
    Plot,
    chance_words,
    curve,
    ends,
    interval_words,
    number_words,
    plot,
    reward_words,
    signed_words,
    strip,
    svg,
    tone_of,
)
from tokenprior.text import seen

TEMPLATES = Path(__file__).parent / "templates"

MADE = ("name", "date", "began", "model", "temperature", "verifier", "tokenprior", "python")

# What stands before a verdict at a glance; its words say the same.
SIGNS = {"helps": "▲", "hurts": "▼", "unclear": "?", "same words": "=", "nothing": "–"}


def comparison_page(report: Mapping[str, Any]) -> str:
    """One self-contained HTML file.

    Args:
        report: what `Comparison.to_json` gives; under `made` it may say when and of what it was made, see `MADE`.
    """
    return rendered("comparison.html", report=report, made=made_of(report), tasks=_tasks(report), **shown(report))


def learned_page(report: Mapping[str, Any]) -> str:
    """One self-contained HTML file of a learning run.

    Args:
        report: what `store.report.report_of` gives.
    """
    comparison = report["comparison"]
    lessons = [*report["used"], *report["waiting"]]
    measured = [one for one in lessons if one["effect"]]
    effects = [(one["id"], one["effect"], _tone(one["effect"])) for one in measured]
    scale = plot("Effects", effects, must=(0.0,), line=(0.0, "no effect"), signed=True)
    return rendered(
        "learned.html",
        report=report,
        made=made_of(report),
        signs=SIGNS,
        # Of one id there may be two wordings, each with an effect of its own.
        strips={
            (lesson["id"], lesson["text"]): strip(scale, one)
            for lesson, one in zip(measured, scale.whiskers, strict=True)
        },
        practice=curve("Practice", [(str(one["step"]), one["practice"]) for one in report["steps"]], must=(0.0, 1.0)),
        gate=curve(
            "Gate",
            [(str(one["step"]), one["gate"]) for one in report["steps"]],
            must=(0.0,),
            line=0.0,
            signed=True,
            joined=False,
        ),
        compared=shown(comparison) if comparison else None,
    )


def _tone(effect: Mapping[str, Any]) -> str:
    return tone_of(effect["low"], effect["high"])


def cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """A JSON value with all of its texts cleaned, those too by which its parts are named; no part is lost by that."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [cleaned(item, clean) for item in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, item in value.items():
        name = clean(key)
        while name in made:
            name += "*"
        made[name] = cleaned(item, clean)
    return made


def made_of(report: Mapping[str, Any]) -> dict[str, str]:
    """When and of what a report was made, each of `MADE` as words, empty where it is not known."""
    return {key: str(report.get("made", {}).get(key, "")) for key in MADE}


def shown(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates of a comparison show beside the report itself."""
    return {
        "arms": report["arms"],
        "differences": report["differences"],
        "signs": SIGNS,
        "constant": report["best_constant_answer"],
        "passes": sorted({int(j) for arm in report["arms"] for j in arm["pass_at"]}),
        "plots": [made for made in (_scores(report), _gains(report)) if made.whiskers],
    }


def rendered(template: str, **values: Any) -> str:
    """A template of this folder, every text escaped and with nothing in it that a reader cannot see."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: seen(value) if type(value) is str else value,  # what is marked as safe is seen already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters()
    return environment.get_template(template).render(**values)


def filters() -> dict[str, Callable[..., Any]]:
    """What templates turn figures into words with, and plots into pictures."""
    from markupsafe import Markup

    return {
        "number": number_words,
        "signed": signed_words,
        "chance": chance_words,
        "reward": reward_words,
        "interval": interval_words,
        "svg": lambda made: Markup(svg(made)),
        "safe_svg": Markup,
    }


def _scores(report: Mapping[str, Any]) -> Plot:
    rows = [(arm["arm"], arm["score"], "plain") for arm in report["arms"] if arm["score"]]
    constant = report["best_constant_answer"]
    # The share of a constant answer belongs on a scale of shares only.
    shares = all(0 <= value <= 1 for _, score, _ in rows for value in ends(score))
    line = (constant[1], "best constant answer") if constant and shares else None
    return plot("Score", rows, must=(0.0, 1.0) if shares else (), line=line, signed=False)


def _gains(report: Mapping[str, Any]) -> Plot:
    rows = [(d["arm"], d["gain"], d["outcome"]) for d in report["differences"] if d["gain"]]
    baseline = report["arms"][0]["arm"] if report["arms"] else ""
    return plot(f"Gain over {baseline}", rows, must=(0.0,), line=(0.0, "no difference"), signed=True)


def _tasks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every task with its rewards by arm, the largest gain of the first library first; without a difference last."""
    arms = report["arms"]
    gains = task_gains(arms[1]["tasks"], arms[0]["tasks"]) if len(arms) > 1 else {}
    tasks = arms[0]["tasks"] if arms else {}
    rows = [{"id": t, "rewards": [arm["tasks"].get(t, []) for arm in arms], "gain": gains.get(t)} for t in tasks]
    return sorted(rows, key=lambda row: (row["gain"] is None, -(row["gain"] or 0.0)))

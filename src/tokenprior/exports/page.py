"""A comparison as one page for a browser: no script, nothing from the network, every text escaped.

The page is made of the JSON of a `Comparison` alone, so an old report can be shown again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LEFT, _RIGHT = 5.0, 95.0  # percent of the width: a dot at the edge of the scale is whole, and so is a tick's text

MADE = ("name", "date", "model", "temperature", "verifier", "tokenprior", "python")

# What stands before a verdict at a glance; its words say the same.
SIGNS = {"helps": "▲", "hurts": "▼", "unclear": "?", "same words": "=", "nothing": "–"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """One line of a plot: places in percent of the width, and what stands above it. No interval is known as `None`."""

    label: str
    figure: str
    at: float
    low: float | None
    high: float | None
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Dots with whiskers over one scale.

    Attributes:
        ticks: places in percent, with the numbers to be written there.
        line: a place that is marked from top to bottom, with what it means; `None` for none.
    """

    title: str
    whiskers: tuple[Whisker, ...]
    ticks: tuple[tuple[float, str], ...]
    line: tuple[float, str] | None


def comparison_page(report: Mapping[str, Any]) -> str:
    """One self-contained HTML file.

    Args:
        report: what `Comparison.to_json` gives; under `made` it may say when and of what it was made, see `MADE`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed, "chance": _chance, "reward": _reward}
    text = environment.get_template("comparison.html").render(
        report=report,
        made={key: str(report.get("made", {}).get(key, "")) for key in MADE},
        arms=report["arms"],
        differences=report["differences"],
        signs=SIGNS,
        constant=report["best_constant_answer"],
        passes=sorted({int(j) for arm in report["arms"] for j in arm["pass_at"]}),
        plots=[plot for plot in (_scores(report), _gains(report)) if plot.whiskers],
        tasks=_tasks(report),
    )
    # A task's id may hold half of a character, which no file can.
    return text.encode("utf-8", "replace").decode("utf-8")


def _scores(report: Mapping[str, Any]) -> Plot:
    rows = [(arm["arm"], arm["score"], "plain") for arm in report["arms"] if arm["score"]]
    constant = report["best_constant_answer"]
    # The share of a constant answer belongs on a scale of shares only.
    shares = all(0 <= value <= 1 for _, score, _ in rows for value in _ends(score))
    line = (constant[1], "best constant answer") if constant and shares else None
    return _plot("Score", rows, must=(0.0, 1.0) if shares else (), line=line, signed=False)


def _gains(report: Mapping[str, Any]) -> Plot:
    rows = [(d["arm"], d["gain"], d["outcome"]) for d in report["differences"] if d["gain"]]
    baseline = report["arms"][0]["arm"] if report["arms"] else ""
    return _plot(f"Gain over {baseline}", rows, must=(0.0,), line=(0.0, "no difference"), signed=True)


def _plot(
    title: str,
    rows: Sequence[tuple[str, Mapping[str, Any], str]],
    *,
    must: Sequence[float],
    line: tuple[float, str] | None,
    signed: bool,
) -> Plot:
    """Rows on the smallest scale of round numbers that holds them and what it must hold."""
    values = [*must, *(value for _, interval, _ in rows for value in _ends(interval))]
    ticks = _round_numbers(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]

    def at(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 3)

    whiskers = tuple(
        Whisker(
            label=label,
            figure=_interval(interval, signed=signed),
            at=at(interval["mean"]),
            low=None if interval["low"] is None else at(interval["low"]),
            high=None if interval["high"] is None else at(interval["high"]),
            tone=tone.replace(" ", "-"),
        )
        for label, interval, tone in rows
    )
    return Plot(
        title=title,
        whiskers=whiskers,
        ticks=tuple((at(tick), f"{tick:g}") for tick in ticks),
        line=(at(line[0]), line[1]) if line else None,
    )


def _ends(interval: Mapping[str, Any]) -> list[float]:
    return [value for value in (interval["low"], interval["mean"], interval["high"]) if value is not None]


def _round_numbers(low: float, high: float) -> list[float]:
    """Four to eight round numbers, the first not above `low` and the last not below `high`."""
    room = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(room / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if room / (size * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(count * step, 12) for count in range(first, max(last, first + 1) + 1)]


def _tasks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every task with its rewards by arm, the largest gain of the first library first; without a difference last."""
    arms = report["arms"]
    rows = []
    for task in arms[0]["tasks"] if arms else ():
        rewards = [arm["tasks"].get(task, []) for arm in arms]
        means = [_mean(values) for values in rewards[:2]]
        known = len(means) == 2 and None not in means
        rows.append({"id": task, "rewards": rewards, "gain": means[1] - means[0] if known else None})  # type: ignore[operator]
    return sorted(rows, key=lambda row: (row["gain"] is None, -(row["gain"] or 0.0)))


def _mean(rewards: Iterable[float | None]) -> float | None:
    scored = [reward for reward in rewards if reward is not None]
    return sum(scored) / len(scored) if scored else None


def _interval(interval: Mapping[str, Any], *, signed: bool) -> str:
    form = _signed if signed else _number
    if interval["low"] is None or interval["high"] is None:
        return form(interval["mean"])
    return f"{form(interval['mean'])} [{form(interval['low'])}, {form(interval['high'])}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _chance(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _reward(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

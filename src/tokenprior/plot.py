"""Plot: figures in words, and dots with whiskers and curves as SVG, alike on the pages, in a report and in a notebook.

The SVG has no style of its own: `STYLE` has, for whoever shows it; a page may have rules of its own for the same names.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenprior.text import seen

_ROW = 66  # pixels
_CURVE_HEIGHT = 160  # pixels
_LEFT, _RIGHT = 5.0, 95.0  # percent of the width: a dot at the edge of the scale is whole, and so is a tick's text

# Text is of the colour around it, and the tones are seen on white and on black alike (3 to 1 or more).
STYLE = """\
.plot{display:block;width:100%;overflow:hidden;font:14px/1 system-ui,sans-serif;fill:currentColor}
.plot .soft{font-size:12px;opacity:.8}
.plot .grid{stroke:currentColor;opacity:.2}
.plot .mark{stroke:currentColor;opacity:.7;stroke-dasharray:4 3}
.plot .reach{stroke:var(--tone,#3f7fd1);stroke-width:2.5}
.plot .thin{opacity:.6}
.plot .dot{fill:var(--tone,#3f7fd1)}
.plot .helps{--tone:#2a8f57}
.plot .hurts{--tone:#d0453c}
.plot .unclear{--tone:#857a6d}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisker:
    """One line of a plot: places in percent of the width, and what stands above it. No interval is known as `None`.

    Attributes:
        tone: `helps`, `hurts`, `unclear`, or any other for what is no difference.
    """

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

    @property
    def words(self) -> str:
        """All that the plot shows, for those who do not see it."""
        rows = "".join(f" {one.label} {one.figure};" for one in self.whiskers)
        return f"{self.title}:{rows}{f' dashed line: {self.line[1]}' if self.line else ''}"


def plot(
    title: str,
    rows: Sequence[tuple[str, Mapping[str, Any], str]],
    *,
    must: Sequence[float] = (),
    line: tuple[float, str] | None = None,
    signed: bool = False,
) -> Plot:
    """Rows on the smallest scale of round numbers that holds them and what it must hold.

    Args:
        rows: each a label, an interval (`mean`, `low`, `high`) and a tone.
        must: values that the scale holds too.
        line: a value to be marked, with what it means.
        signed: whether figures are differences.
    """
    values = [*must, *(value for _, interval, _ in rows for value in ends(interval))]
    ticks = round_numbers(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]

    def at(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 3)

    whiskers = tuple(
        Whisker(
            label=label,
            figure=interval_words(interval, signed=signed),
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


def svg(made: Plot) -> str:
    """The whole plot: for each row its label and figure, and its dot and whisker below them."""
    bottom, left = len(made.whiskers) * _ROW + 6, made.ticks[0][0]
    parts = [f'<svg class="plot" height="{bottom + 22}" role="img" aria-label="{_safe(made.words)}">']
    for at, text in made.ticks:
        parts.append(f'<line class="grid" x1="{at}%" x2="{at}%" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="soft" x="{at}%" y="{bottom + 16}" text-anchor="middle">{_safe(text)}</text>')
    for place, one in enumerate(made.whiskers):
        y = _ROW * place
        if made.line:  # beside the dots alone: words are to be read
            mark = f'x1="{made.line[0]}%" x2="{made.line[0]}%" y1="{y + 40}" y2="{y + 62}"'
            parts.append(f'<line class="mark" {mark}/>')
        parts.append(f'<g class="{_safe(one.tone)}">')
        parts.append(f'<text x="{left}%" dx="6" y="{y + 18}">{_safe(one.label)}</text>')
        parts.append(f'<text class="soft" x="{left}%" dx="6" y="{y + 34}">{_safe(one.figure)}</text>')
        parts.append(f"{_reach(one, y + 51)}</g>")
    return "".join([*parts, "</svg>"])


def strip(made: Plot, one: Whisker) -> str:
    """One row of a plot, small enough for a cell of a table whose other cells bear its label and figure."""
    mark = f'<line class="mark" x1="{made.line[0]}%" x2="{made.line[0]}%" y1="0" y2="24"/>' if made.line else ""
    words = _safe(f"{one.label} {one.figure}")
    tone = _safe(one.tone)
    row = f'{mark}<g class="{tone}">{_reach(one, 12)}</g>'
    return f'<svg class="plot" height="24" role="img" aria-label="{words}">{row}</svg>'


def curve(
    title: str,
    points: Sequence[tuple[str, Mapping[str, Any] | None]],
    *,
    must: Sequence[float] = (),
    line: float | None = None,
    signed: bool = False,
    joined: bool = True,
) -> str:
    """Intervals in their order from left to right.

    Args:
        points: each the label of its place and an interval, or `None` where there is none.
        must: values that the scale holds too.
        line: a value that is marked from left to right.
        joined: whether a line leads from each to the next.
    """
    known = [(place, interval) for place, (_, interval) in enumerate(points) if interval is not None]
    values = [*must, *(value for _, interval in known for value in ends(interval))]
    ticks = round_numbers(min(values, default=0.0), max(values, default=1.0))

    def across(place: int) -> float:
        return round(_LEFT + 4 + (place + 0.5) / max(1, len(points)) * (_RIGHT - _LEFT - 4), 3)

    def down(value: float) -> float:
        return round(10 + (ticks[-1] - value) / (ticks[-1] - ticks[0]) * _CURVE_HEIGHT, 2)

    told = "; ".join(f"{points[place][0]} {interval_words(interval, signed=signed)}" for place, interval in known[-1:])
    words = f"{title}: {len(known)} points, the last: {told}" if known else f"{title}: nothing yet"
    parts = [f'<svg class="plot" height="{_CURVE_HEIGHT + 40}" role="img" aria-label="{_safe(words)}">']
    for tick in ticks:
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT + 4}%" x2="{_RIGHT}%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="{_LEFT + 3}%" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    if line is not None:
        parts.append(f'<line class="mark" x1="{_LEFT + 4}%" x2="{_RIGHT}%" y1="{down(line)}" y2="{down(line)}"/>')
    every = -(-len(points) // 10)  # with more than ten labels they would touch
    for place, (label, _) in enumerate(points):
        if place % every == 0:
            at = f'x="{across(place)}%" y="{_CURVE_HEIGHT + 30}" text-anchor="middle"'
            parts.append(f'<text class="soft" {at}>{_safe(label)}</text>')
    for (place, one), (after, other) in pairwise(known):
        if joined and after == place + 1:
            x1, x2, y1, y2 = across(place), across(after), down(one["mean"]), down(other["mean"])
            parts.append(f'<line class="reach" x1="{x1}%" x2="{x2}%" y1="{y1}" y2="{y2}"/>')
    for place, one in known:
        x = across(place)
        if one["low"] is not None and one["high"] is not None:
            low, high = down(one["low"]), down(one["high"])
            parts.append(f'<line class="reach thin" x1="{x}%" x2="{x}%" y1="{low}" y2="{high}"/>')
        parts.append(f'<circle class="dot" cx="{x}%" cy="{down(one["mean"])}" r="4"/>')
    return "".join([*parts, "</svg>"])


def _safe(text: str) -> str:
    return html.escape(seen(text))


def _reach(one: Whisker, y: int) -> str:
    parts = []
    if one.low is not None and one.high is not None:
        parts.append(f'<line class="reach" x1="{one.low}%" x2="{one.high}%" y1="{y}" y2="{y}"/>')
        parts += [f'<line class="reach" x1="{x}%" x2="{x}%" y1="{y - 6}" y2="{y + 6}"/>' for x in (one.low, one.high)]
    return "".join([*parts, f'<circle class="dot" cx="{one.at}%" cy="{y}" r="6"/>'])


def ends(interval: Mapping[str, Any]) -> list[float]:
    """The mean of an interval between its ends, as far as they are known."""
    return [value for value in (interval["low"], interval["mean"], interval["high"]) if value is not None]


def round_numbers(low: float, high: float) -> list[float]:
    """Four to eight round numbers, the first not above `low` and the last not below `high`."""
    room = high - low or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(room / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if room / (size * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(count * step, 12) for count in range(first, max(last, first + 1) + 1)]


def interval_words(interval: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """A mean with its interval, such as `+0.120 [+0.040, +0.200]`; a dash where nothing is known."""
    if interval is None:
        return "–"
    form = signed_words if signed else number_words
    if interval["low"] is None or interval["high"] is None:
        return form(interval["mean"])
    return f"{form(interval['mean'])} [{form(interval['low'])}, {form(interval['high'])}]"


def number_words(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def signed_words(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def chance_words(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def reward_words(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def tone_of(low: float | None, high: float | None) -> str:
    """What an interval of a difference says: it helps, it hurts, or that is not clear."""
    if low is None or high is None:
        return "unclear"
    return "helps" if low > 0 else "hurts" if high < 0 else "unclear"

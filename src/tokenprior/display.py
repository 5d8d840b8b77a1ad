"""Display: a library, a group, a comparison or what was learned as rich text for a notebook (`_repr_html_`).

Every text is escaped, for all of them come from models and data. There is no script and nothing from the network; the
colours are those of the notebook, dark or light, and the rules of the style reach nothing outside of it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tokenprior.plot import STYLE, interval_words, plot, reward_words, strip, svg, tone_of
from tokenprior.text import bounded, seen, shorten

if TYPE_CHECKING:
    from tokenprior.comparison import Comparison
    from tokenprior.experience import Effect, Experience
    from tokenprior.group import Group
    from tokenprior.library import Library
    from tokenprior.rollout import Message

MOST_ROWS = 200  # lessons; a notebook keeps what it shows
MOST_CHARS = 4_000  # of one output

_STYLE = (
    ".tokenprior{max-width:62rem;line-height:1.45;overflow-x:auto}"
    ".tokenprior p{margin:.4em 0}"
    ".tokenprior table{border-collapse:collapse;width:100%;color:inherit}"
    ".tokenprior th,.tokenprior td{padding:.3em .7em;text-align:left;vertical-align:top;background:none;"
    "border-top:1px solid color-mix(in srgb,currentColor 25%,transparent)}"
    ".tokenprior td.figure{white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".tokenprior td.strip{min-width:11rem}"
    ".tokenprior pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:20em;overflow-y:auto;margin:.3em 0;"
    "background:none;color:inherit}"
)
_PLOT_STYLE = "".join(f".tokenprior {rule}" for rule in STYLE.splitlines())


def library_html(library: Library) -> str:
    """The lessons with what each was measured to do."""
    title = f"Library {library.version}, {_count(len(library), 'lesson')}"
    return _within([f"<p><strong>{title}</strong></p>", *_lessons(library)])


def group_html(group: Group) -> str:
    """The attempts of a group with their rewards, the best first."""
    order = sorted(range(len(group.rollouts)), key=lambda i: _worst_last(group.rewards[i].value))
    rows = []
    for i in order:
        rollout, reward = group.rollouts[i], group.rewards[i]
        verdict = reward_words(reward.value) if reward.is_scored else f"unscored: {shorten(reward.reason)}"
        output = _text(f"failed: {rollout.failure.kind}" if rollout.failure else rollout.output)
        more = f"<p>{_text(shorten(reward.feedback, 300))}</p>" if reward.feedback else ""
        folded = f"<details><summary>conversation</summary>{_messages(rollout.messages)}</details>"
        cells = f"<td class='figure'>#{rollout.index}</td><td class='figure'>{_text(verdict)}</td>"
        rows.append(f"<tr>{cells}<td><pre>{output}</pre>{more}{folded}</td></tr>")
    mean = "no attempt scored" if group.mean is None else f"mean reward {group.mean:.3f}, spread {group.spread:g}"
    title = f"Group of task {_text(shorten(group.task.id))}"
    about = f"{_count(len(rows), 'attempt')}: {group.kind().replace('_', ' ')}, {mean}"
    question = f"<pre>{_text(group.task.question)}</pre>"
    table = _table(("Attempt", "Reward", "Output"), rows)
    return _within([f"<p><strong>{title}</strong>, {about}</p>", question, table])


def comparison_html(comparison: Comparison) -> str:
    """The verdicts, and the arms with their scores."""
    value = comparison.to_json()
    verdicts = [f"<p><strong>{_text(one.verdict)}</strong></p>" for one in comparison.differences]
    shares = all(arm.score is None or 0 <= arm.score.mean <= 1 for arm in comparison.arms)
    scores = [(arm["arm"], arm["score"], "plain") for arm in value["arms"] if arm["score"]]
    gains = [(one["arm"], one["gain"], one["outcome"]) for one in value["differences"] if one["gain"]]
    parts = [svg(plot("Score", scores, must=(0.0, 1.0) if shares else ()))] if scores else []
    if gains:
        over = f"Gain over {comparison.arms[0].arm}"
        parts += [
            f"<p>{_text(over)}</p>",
            svg(plot(over, gains, must=(0.0,), line=(0.0, "no difference"), signed=True)),
        ]
    each = _count(comparison.design.k, "attempt")
    tasks = f"<p>{comparison.tasks_done} of {comparison.tasks_total} tasks, {each} for each task and arm.</p>"
    return _within([*verdicts, *parts, tasks])


def learned_html(library: Library, learning: Library, steps: Sequence[dict[str, Any]], stopped: str | None) -> str:
    """What ships, what waits, and the steps that led there."""
    waiting = [learning[i] for part in library.changes(learning) for i in part if i in learning]
    ships = f"Ships: library {library.version}, {_count(len(library), 'lesson')}"
    parts = [f"<p><strong>{ships}</strong></p>", *_lessons(library.refreshed(learning))]
    if waiting:
        parts += [f"<p><strong>Waiting for more evidence: {_count(len(waiting), 'lesson')}</strong></p>"]
        parts += _lessons(waiting)
    rows = [
        f"<tr><td class='figure'>{step['step']}</td><td class='figure'>{reward_words(step['mean'])}</td>"
        f"<td>{_text(', '.join(f'{count} {kind}' for kind, count in step['groups'].items()))}</td>"
        f"<td class='figure'>{step['lessons']}</td>"
        f"<td>{'<br>'.join(_text(trial['sentence']) for trial in step.get('trials', ()))}</td></tr>"
        for step in steps
    ]
    if rows:
        parts.append(_table(("Step", "Mean reward", "Groups", "Lessons", "At the gate"), rows))
    if stopped:
        parts.append(f"<p>Stopped: {_text(stopped)}. The same call goes on.</p>")
    return _within(parts)


def _lessons(lessons: Iterable[Experience]) -> list[str]:
    every = list(lessons)
    if not every:
        return ["<p>No lessons.</p>"]
    shown = every[:MOST_ROWS]
    intervals = [(e.id, _interval(e.effect), tone_of(e.effect.low, e.effect.high)) for e in shown if e.effect]
    scale = plot("Effects", intervals, must=(0.0,), line=(0.0, "no effect"), signed=True)
    strips = {one.label: strip(scale, one) for one in scale.whiskers}
    rows = []
    for e in shown:
        words = "not measured"
        if e.effect:
            words = f"{interval_words(_interval(e.effect), signed=True)}<br>{_count(e.effect.tasks, 'task')}"
        name = f"<strong>{_text(e.name)}</strong>: " if e.name else ""
        rows.append(
            f"<tr><td class='figure'>{_text(e.id)}</td><td>{name}{_text(e.text)}</td>"
            f"<td class='strip'>{strips.get(e.id, '')}</td><td class='figure'>{words}</td>"
            f"<td class='figure'>{_count(e.support, 'group')}</td></tr>"
        )
    more = [f"<p>And {len(every) - len(shown)} more.</p>"] if len(every) > len(shown) else []
    return [_table(("Id", "Lesson", "Effect [95%]", "", "From"), rows), *more]


def _interval(effect: Effect) -> dict[str, float]:
    return {"mean": effect.mean, "low": effect.low, "high": effect.high}


def _messages(messages: Iterable[Message]) -> str:
    parts = []
    for message in messages:
        calls = "".join(f"\ncalls {call.name}: {call.arguments}" for call in message.tool_calls)
        parts.append(f"<p>{message.role}</p><pre>{_text(message.content + calls)}</pre>")
    return "".join(parts)


def _text(text: str) -> str:
    """A text as HTML: not too long, with nothing in it that works or that a reader cannot see."""
    return html.escape(seen(bounded(text, MOST_CHARS)))


def _table(titles: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _within(parts: Iterable[str]) -> str:
    made = f"<div class='tokenprior'><style>{_STYLE}{_PLOT_STYLE}</style>{''.join(parts)}</div>"
    # A model may write half of a character, which no notebook file can hold.
    return made.encode("utf-8", "replace").decode("utf-8")


def _worst_last(value: float | None) -> tuple[bool, float]:
    return value is None, -(value or 0.0)


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"

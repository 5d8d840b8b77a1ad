"""A section between two markers of a file that coding agents read: AGENTS.md, CLAUDE.md, GEMINI.md, .cursorrules and
the like. What stands outside the markers stays byte for byte; a file without them gets the section at its end.

    <!-- tokenprior:begin -->
    ## Lessons from experience

    Follow those whose condition fits the task at hand:

    - [G0] **Name**: When ..., ...

    <!-- tokenprior {"library": "...", "lessons": {"G0/1a2b3c4d": {...}}} -->
    <!-- tokenprior:end -->

The comment holds the evidence: where a lesson came from, from how many groups, and its effect as mean, low, high,
shrunk, tasks and rollouts, rounded. Agents that read comments pay for them, so it is no more than that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tokenprior.errors import DataError
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.exports.base import Around, Reading, newline_of, tidied
from tokenprior.exports.items import comment, experience_of_item, item, read_comment
from tokenprior.library import Library
from tokenprior.prior import HEADING
from tokenprior.text import shorten

BEGIN = "<!-- tokenprior:begin -->"
END = "<!-- tokenprior:end -->"

_TITLE, _, _REST = HEADING.partition(". ")
_MARK = re.compile(r"<!--[ \t]*tokenprior:(begin|end)\b", re.IGNORECASE)
_LINE = re.compile(rf"^[\ufeff \t]*({re.escape(BEGIN)}|{re.escape(END)})[ \t\r]*$", re.MULTILINE)


def dumps(library: Library, around: Around) -> str:
    """Raises DataError if the markers in `into` are broken or stand there more than once."""
    text = around.into or ""
    span = _span(text)
    newline = newline_of(text[span[0] :] if span else text)
    section = newline.join(_lines(library))
    if span:
        return text[: span[0]] + section + text[span[1] :]
    gap = "" if not text or text.endswith(newline * 2) else newline if text.endswith("\n") else newline * 2
    return text + gap + section + newline


def loads(content: str, run: str) -> Reading:
    """The lessons of a section; items that a person put there are lessons too.

    Raises:
        DataError: there are no markers, or they are broken.
    """
    span = _span(content)
    if not span:
        raise DataError(f"holds no section of tokenprior: it begins with a line `{BEGIN}`")
    lines = [line.removesuffix("\r") for line in content[span[0] : span[1]].split("\n")][1:-1]
    items: list[list[str]] = []
    notes: list[str] = []
    evidence: dict[str, Any] = {}
    for number, line in enumerate(lines, content.count("\n", 0, span[0]) + 2):
        if line.startswith("- "):
            items.append([line.removeprefix("- ")])
        elif items and (not line or line.startswith("  ")):
            items[-1].append(line)
        elif (read := read_comment(line)) is not None:
            evidence = read
        elif line.strip() and line not in (f"## {_TITLE}", _REST):
            notes.append(f"line {number} is no lesson and is left out: {shorten(line, 60)}")
    experiences = _experiences(items, run)
    measured = evidence.get("lessons")
    known = measured if isinstance(measured, dict) else {}
    ids = {key.partition("/")[0] for key in known}
    notes += [
        f"{e.id} was reworded since it was exported: its effect and where it came from are left out"
        for e in experiences
        if e.key not in known and e.id in ids
    ]
    return Reading(
        library=Library(experiences=tuple(_with_evidence(e, known.get(e.key)) for e in experiences)),
        notes=tuple(notes),
    )


def holds_section(text: str) -> bool:
    return _MARK.search(text) is not None


def _lines(library: Library) -> Iterator[str]:
    lessons = [tidied(experience) for experience in library]
    yield BEGIN
    if lessons:
        yield from (f"## {_TITLE}", "", _REST, "")
        for experience in lessons:
            yield from item(experience)
        known = {e.key: shown for e in lessons if (shown := _evidence(e))}
        yield from ("", comment({"library": library.version, "lessons": known}))
    yield END


def _span(text: str) -> tuple[int, int] | None:
    """Where the section stands, its markers included, or nothing."""
    marks = list(_MARK.finditer(text))
    whole = list(_LINE.finditer(text))
    if not marks:
        return None
    if [mark[1].lower() for mark in marks] != ["begin", "end"] or [mark[1] for mark in whole] != [BEGIN, END]:
        places = [f"{mark[1].lower()} in line {text.count(chr(10), 0, mark.start()) + 1}" for mark in marks[:5]]
        more = "" if len(marks) <= 5 else " and more"
        raise DataError(
            f"expected one line `{BEGIN}` and after it one line `{END}`, got {', '.join(places)}{more}: repair or "
            "delete these markers"
        )
    return whole[0].start(1), whole[1].end(1)


def _evidence(experience: Experience) -> dict[str, Any]:
    origin, effect = experience.provenance, experience.effect
    shown: dict[str, Any] = {}
    if origin.run:
        shown |= {"run": origin.run, "step": origin.step, "operation": origin.operation, "groups": experience.support}
    if effect:
        figures = (effect.mean, effect.low, effect.high, effect.shrunk)
        shown["effect"] = [*(round(value, 4) for value in figures), effect.tasks, effect.rollouts]
    return shown


def _with_evidence(experience: Experience, shown: Any) -> Experience:
    """What a file claims to know of a lesson; of a wrong shape it is not looked at."""
    if not isinstance(shown, dict):
        return experience
    if isinstance(shown.get("run"), str) and isinstance(shown.get("step"), int):
        origin = Provenance(run=shown["run"], step=shown["step"], operation=str(shown.get("operation", "Import")))
        experience = replace(experience, provenance=origin)
    figures = shown.get("effect")
    if isinstance(figures, list) and len(figures) == 6:
        mean, low, high, shrunk, tasks, rollouts = figures
        effect = Effect(mean=mean, low=low, high=high, shrunk=shrunk, tasks=tasks, rollouts=rollouts)
        experience = replace(experience, effect=effect)
    return experience


def _experiences(items: list[list[str]], run: str) -> list[Experience]:
    """Lessons with the ids that they bear; those without one are numbered behind."""
    named = [experience_of_item(lines, run) for lines in items]
    number = Library(experiences=tuple(e for e in named if e.id)).next_number
    numbers = iter(range(number, number + len(items)))
    return [e if e.id else replace(e, id=f"G{next(numbers)}") for e in named]

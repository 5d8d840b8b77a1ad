"""An ACE playbook: bullets `[id] helpful=0 harmful=0 :: text` under headings of sections.

ACE counts how often its reflector called a bullet helpful or harmful. We have no such counts and make none up: both are
0, whatever an effect says; and counts that come in are named in the reason of a lesson, and are no effect.

Source: github.com/ace-agent/ace, `playbook_utils.py` for the bullets and `ace/ace.py` for the sections.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tokenprior.errors import DataError
from tokenprior.experience import Experience, Provenance, one_line, parse_id
from tokenprior.exports.base import Around, Reading
from tokenprior.exports.flat import experience_of
from tokenprior.library import Library
from tokenprior.text import shorten

# ACE adds only to sections that are there, and fails on text before the first.
SECTIONS = (
    "STRATEGIES & INSIGHTS",
    "FORMULAS & CALCULATIONS",
    "CODE SNIPPETS & TEMPLATES",
    "COMMON MISTAKES TO AVOID",
    "PROBLEM-SOLVING HEURISTICS",
    "CONTEXT CLUES & INDICATORS",
    "OTHERS",
)
_BULLET = re.compile(r"\s*\[([^\]\n]+)\]\s*helpful=(\d{1,9})\s*harmful=(\d{1,9})\s*::(.*)")


def dumps(library: Library, around: Around) -> str:
    bullets = [f"[{e.id}] helpful=0 harmful=0 :: {one_line(e.line)}" for e in library]
    first, *others = (f"## {section}" for section in SECTIONS)
    return "\n\n".join(["\n".join([first, *bullets]), *others]) + "\n"


def loads(content: str, run: str) -> Reading:
    """The bullets of a playbook, in their order. Those with an id of ours keep it, the others are numbered behind.

    Raises:
        DataError: there is no bullet.
    """
    section = ""
    found: list[Experience] = []
    notes: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        bullet = _BULLET.fullmatch(line)
        if bullet:
            identity, helpful, harmful, text = bullet.groups()
            experience = experience_of(_own_id(identity), text, run)
            counts = f"helpful={helpful}, harmful={harmful}"
            reason = "" if counts == "helpful=0, harmful=0" else f"ACE, bullet {identity} of {section or '-'}: {counts}"
            found.append(replace(experience, provenance=Provenance(run=run, operation="Import", reason=reason)))
        elif line.lstrip().startswith("#"):
            section = line.strip("# \t")
        elif line.strip():
            notes.append(f"line {number} is no bullet and is left out: {shorten(line, 60)}")
    if not found:
        raise DataError("holds no bullet of an ACE playbook, such as `[id] helpful=0 harmful=0 :: text`")
    free = Library(experiences=tuple(e for e in found if e.id)).next_number
    numbers = iter(range(free, free + len(found)))
    library = Library(experiences=tuple(e if e.id else replace(e, id=f"G{next(numbers)}") for e in found))
    return Reading(library=library, notes=tuple(notes))


def holds_bullets(text: str) -> bool:
    return any(_BULLET.fullmatch(line) for line in text.splitlines())


def _own_id(identity: str) -> str:
    return identity if parse_id(identity) == identity else ""

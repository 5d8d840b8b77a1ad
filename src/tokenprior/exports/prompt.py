"""A prior inside a prompt: put at its end, found there again, and put in place of an earlier one.

The prior is the end of the prompt, word for word as it was learned, so nothing marks where it stops: an earlier one is
replaced only if all that follows its heading is lessons of one line. Anything else there may be the user's.
"""

from __future__ import annotations

import re

from tokenprior.errors import DataError
from tokenprior.exports.base import Reading
from tokenprior.exports.flat import experience_of
from tokenprior.library import Library
from tokenprior.prior import HEADING, TokenPrior
from tokenprior.text import shorten

_HEADING = re.compile(rf"^{re.escape(HEADING)}[ \t\r]*$", re.MULTILINE)
_ENTRY = re.compile(r"^\[G(\d{1,9})\] ", re.MULTILINE)


def with_prior(library: Library, instructions: str, newline: str = "\n") -> str:
    """The instructions with the prior of a library at their end, in place of an earlier one if there is one.

    Args:
        newline: how the lines of the prior end.

    Raises:
        DataError: what follows an earlier prior's heading is not lessons of one line alone.
    """
    prior = TokenPrior.of(library)
    own = _without_prior(instructions, newline, prior.text.replace("\n", newline))
    return own + prior.conditioned(own)[len(own) :].replace("\n", newline)


def holds_prior(text: str) -> bool:
    return _HEADING.search(text) is not None


def _without_prior(instructions: str, newline: str, same: str) -> str:
    found = _HEADING.search(instructions)
    if not found:
        return instructions
    if not same or instructions[found.start() :] != same:
        for line in instructions[found.end() :].splitlines():
            if line.strip() and not _ENTRY.match(line):
                raise DataError(
                    f"behind the lessons stands {shorten(line, 60)!r}, which may be yours: move it above "
                    f"{HEADING[:24]!r}, for the lessons are the end of a prompt, or delete it"
                )
    return instructions[: found.start()].removesuffix(newline * 2)


def lessons_in(text: str, run: str) -> Reading:
    """The lessons of the prior that a prompt holds.

    Raises:
        DataError: it holds none.
    """
    text = "\n".join(text.splitlines())
    found = _HEADING.search(text)
    entries = list(_ENTRY.finditer(text, found.end())) if found else []
    if not entries:
        raise DataError(f"holds no lessons of tokenprior: they stand behind {HEADING!r}, each as `[G0] ...`")
    ends = [entry.start() for entry in entries[1:]] + [len(text)]
    lines = [(f"G{int(e[1])}", text[e.end() : end].strip()) for e, end in zip(entries, ends, strict=True)]
    return Reading(
        library=Library(experiences=tuple(experience_of(identity, line, run) for identity, line in lines)),
        notes=tuple(
            f"{identity} has {len(line.splitlines())} lines: see that all of them are its own"
            for identity, line in lines
            if "\n" in line
        ),
    )

"""A page for people: each lesson under a heading, with what it was measured to do and where it came from.

Read back, the quotation under a heading `## [G0] Name` is the lesson, and the comment below it the whole evidence. What
else stands there is for the eye. A lesson that was reworded by hand comes back as new: its evidence was of other words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from tokenprior.errors import DataError
from tokenprior.experience import Experience, Provenance, one_line
from tokenprior.exports.base import Around, Reading, tidied
from tokenprior.exports.items import comment, escaped, read_comment, unescaped
from tokenprior.library import Library
from tokenprior.prior import HEADING

_TITLE, _, _REST = HEADING.removesuffix(":").partition(". ")
_PAGE = re.compile(rf"^\ufeff?# {re.escape(_TITLE)}[ \t\r]*$", re.MULTILINE)
_LESSON = re.compile(r"## \[G(\d{1,9})\](?: (.*))?")


def dumps(library: Library, around: Around) -> str:
    return "\n".join(_lines(library)) + "\n"


def loads(content: str, run: str) -> Reading:
    """Raises DataError if the content is no such page."""
    if not holds_page(content):
        raise DataError(f"expected a page that begins with `# {_TITLE}`")
    heads: list[tuple[str, str]] = []
    quotes: list[list[str]] = []
    comments: list[dict[str, Any]] = []
    page: dict[str, Any] = {}
    for line in content.replace("\r\n", "\n").split("\n"):
        if lesson := _LESSON.fullmatch(line.rstrip()):
            heads.append((f"G{int(lesson[1])}", lesson[2] or ""))
            quotes.append([])
            comments.append({})
        elif heads and line.startswith(">"):
            quotes[-1].append(line[1:].removeprefix(" "))
        elif (read := read_comment(line)) is not None:
            if heads:
                comments[-1] = read
            else:
                page = read
    if not heads and not page:
        raise DataError("holds no lesson: each has a heading such as `## [G0] Name`, and its words quoted below it")
    notes: list[str] = []
    experiences: list[Experience] = []
    for (identity, name), quote, known in zip(heads, quotes, comments, strict=True):
        words = Experience(id=identity, name=unescaped(name), text=unescaped("\n".join(quote)).strip())
        if known and known.get("key") != words.key:
            notes.append(
                f"{identity} was reworded since it was exported: its effect and where it came from are left out"
            )
            known = {}
        experiences.append(_with_evidence(words, known, run))
    number = page.get("next_number")
    library = Library(experiences=tuple(experiences), next_number=number if isinstance(number, int) else 0)
    return Reading(library=library, notes=tuple(notes))


def holds_page(text: str) -> bool:
    return _PAGE.search(text) is not None


def _lines(library: Library) -> Iterator[str]:
    yield from (f"# {_TITLE}", "")
    lessons = "1 lesson" if len(library) == 1 else f"{len(library)} lessons"
    yield from (f"Library {library.version}: {lessons}. {_REST}.", "", comment({"next_number": library.next_number}))
    for experience in map(tidied, library):
        yield from ("", f"## [{experience.id}] {escaped(experience.name)}".rstrip(), "")
        yield from (f"> {line}".rstrip() for line in escaped(experience.text).split("\n"))
        yield from ("", _evidence(experience), "")
        effect = {"effect": asdict(experience.effect)} if experience.effect else {}
        yield comment({"key": experience.key, "provenance": experience.provenance.to_json()} | effect)


def _evidence(experience: Experience) -> str:
    """What is known of a lesson, in words."""
    origin, groups = experience.provenance, experience.support
    words = f"Effect {experience.effect}." if experience.effect else "Effect not measured."
    if origin.run:
        source = f"From {groups} group{'' if groups == 1 else 's'} of run {origin.run}, step {origin.step}"
        words += f" {source} ({origin.operation}): {origin.reason or 'no reason given'}"
    return escaped(one_line(words))


def _with_evidence(words: Experience, known: dict[str, Any], run: str) -> Experience:
    """The lesson with the evidence of its comment, checked as that of our JSON is."""
    if not known:
        return replace(words, provenance=Provenance(run=run, operation="Import"))
    entry = {key: known.get(key) for key in ("provenance", "effect")} | {"id": words.id, "text": words.text}
    checked = Library.from_json({"experiences": [entry]}).experiences[0]
    return replace(words, provenance=checked.provenance, effect=checked.effect)

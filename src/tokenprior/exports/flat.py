"""Flat JSON: `{"G0": "Name: lesson"}`, as the reference implementation keeps its experiences."""

from __future__ import annotations

import json
import re

from tokenprior.errors import DataError
from tokenprior.experience import Experience, Provenance, parse_id
from tokenprior.exports.base import Around, Reading
from tokenprior.library import Library

# A title is short and plain; a colon inside a sentence, a formula or a quotation is not the end of one.
_TITLED = re.compile(r"(?P<name>[^:\[\]{}$\\\"\n]{1,80}): (?P<text>\S.*)", re.DOTALL)


def dumps(library: Library, around: Around) -> str:
    return json.dumps({e.id: e.line for e in library}, indent=4, ensure_ascii=False) + "\n"


def loads(content: str, run: str) -> Reading:
    """Raises DataError if the content is not an object of ids and texts."""
    value = json.loads(content)
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object of ids and texts, got {type(value).__name__}")
    experiences: list[Experience] = []
    for key, line in value.items():
        identity = parse_id(key)
        if identity is None or not isinstance(line, str) or not line.strip():
            raise DataError(f"expected ids such as 'G0' with a text each, got {key!r}: {line!r:.60}")
        experiences.append(experience_of(identity, line, run))
    return Reading(library=Library(experiences=tuple(experiences)))


def experience_of(identity: str, line: str, run: str) -> Experience:
    """An experience of one line, its title split off if it has one."""
    titled = _TITLED.fullmatch(line.strip())
    name, text = (titled["name"], titled["text"]) if titled else ("", line.strip())
    if name != name.strip():
        name, text = "", line.strip()
    return Experience(id=identity, name=name, text=text, provenance=Provenance(run=run, operation="Import"))

"""A GEPA candidate: an object of component texts, as `gepa.optimize(seed_candidate=...)` takes it.

The prior stands at the end of one component: `system_prompt`, or the only one that there is.
"""

from __future__ import annotations

import json
from typing import Any

from tokenprior.errors import DataError
from tokenprior.exports.base import Around, Reading
from tokenprior.exports.prompt import holds_prior, lessons_in, with_prior
from tokenprior.library import Library

COMPONENT = "system_prompt"


def dumps(library: Library, around: Around) -> str:
    own = {COMPONENT: around.instructions} if around.into is None else _candidate(around.into)
    names = [COMPONENT] if COMPONENT in own else list(own)
    if len(names) != 1:
        raise DataError(f"expected a component {COMPONENT!r} or one component alone, got {', '.join(names) or 'none'}")
    candidate = own | {names[0]: with_prior(library, own[names[0]])}
    return json.dumps(candidate, indent=1, ensure_ascii=False) + "\n"


def loads(content: str, run: str) -> Reading:
    """Raises DataError if the content is no candidate, or no component of it holds a prior."""
    texts = _candidate(content).values()
    return lessons_in(next(filter(holds_prior, texts), ""), run)


def _candidate(content: str) -> dict[str, str]:
    value: Any = json.loads(content)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError("expected a GEPA candidate, a JSON object of component texts")
    return value

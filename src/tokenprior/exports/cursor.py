"""A rule of Cursor: `.cursor/rules/NAME.mdc`, front matter that puts it before every request, and a section."""

from __future__ import annotations

from tokenprior.exports import section
from tokenprior.exports.base import Around
from tokenprior.library import Library

_FRONT = "---\ndescription: Lessons from experience\nalwaysApply: true\n---\n\n"


def dumps(library: Library, around: Around) -> str:
    """Raises DataError as `section.dumps`."""
    text = section.dumps(library, around)
    return text if around.into else _FRONT + text

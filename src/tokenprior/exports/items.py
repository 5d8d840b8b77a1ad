r"""Lessons as items of a Markdown list, and as they come back from one.

    - [G0] **Name**: When ..., ...

Words come back as they were. What would begin a comment is written `<\!--`, so nothing in a lesson ends a section or
hides what follows; a star or a backslash in a name has a backslash before it; lines after the first are indented.
What was measured travels beside the words under `Experience.key`: reworded by hand, a lesson has no effect known.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenprior.experience import Experience, Provenance

_NAMED = re.compile(r"\*\*(?P<name>(?:[^*\\]|\\.)+)\*\*: (?P<text>.*)", re.DOTALL)
_STARS = re.compile(r"\\*\*\*")  # backslashes, then the stars that a name would begin with
_ID = re.compile(r"\[G(\d{1,9})\](?: |$)")
_COMMENT = re.compile(r"<!-- tokenprior (\{.*\}) -->")


def escaped(text: str) -> str:
    """The text without a beginning of a comment."""
    return re.sub(r"<(\\*)!--", r"<\1\\!--", text)


def unescaped(text: str) -> str:
    return re.sub(r"<\\(\\*)!--", r"<\1!--", text)


def item(experience: Experience) -> list[str]:
    """The lines of an item. The lesson is tidied."""
    name, text = experience.name, experience.text
    if name:
        starless = re.sub(r"([*\\])", r"\\\1", name)
        words = f"**{starless}**: {text}"
    else:
        words = "\\" + text if _STARS.match(text) else text
    first, *rest = escaped(words).split("\n")
    return [f"- [{experience.id}] {first}", *(f"  {line}" if line else "" for line in rest)]


def experience_of_item(lines: list[str], run: str) -> Experience:
    """The lesson of an item, its first line without the `- `. Its id is empty if it bears none."""
    own = _ID.match(lines[0])
    first = lines[0][own.end() :] if own else lines[0]
    words = unescaped("\n".join([first, *(line.removeprefix("  ") for line in lines[1:])]).strip())
    named = _NAMED.fullmatch(words)
    if named:
        name, text = re.sub(r"\\(.)", r"\1", named["name"]), named["text"]
    else:
        name, text = "", words[1:] if words.startswith("\\") and _STARS.match(words) else words
    provenance = Provenance(run=run, operation="Import")
    return Experience(id=f"G{int(own[1])}" if own else "", name=name, text=text, provenance=provenance)


def comment(value: dict[str, Any]) -> str:
    """A JSON object in a comment of one line, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for plain, code in (("--", r"-\u002d"), ("<", r"\u003c"), (">", r"\u003e")):
        text = text.replace(plain, code)
    return f"<!-- tokenprior {text} -->"


def read_comment(line: str) -> dict[str, Any] | None:
    """The object in such a line; empty if it cannot be read, `None` for another line."""
    found = _COMMENT.fullmatch(line.strip())
    if not found:
        return None
    try:
        value = json.loads(found[1])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""Text: made short with what was cut said, told apart, and made visible."""

from __future__ import annotations

import difflib
import re
from typing import Literal

Piece = Literal["same", "gone", "new"]

MOST_WORDS = 4_000  # of two texts that are told apart word by word: the time taken grows with the square

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")

# Control characters, characters of no width, marks that turn the direction of writing, and halves of characters.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def shorten(value: object, limit: int = 120) -> str:
    """One line of at most `limit` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def bounded(text: str, limit: int) -> str:
    """A text of at most so many characters, and a few more that say how many were left out of its middle."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]}\n[... {len(text) - head - tail} characters left out ...]\n{text[-tail:]}"


def differing(before: str, after: str) -> list[tuple[Piece, str]]:
    """What tells a text from the one before, word by word: pieces that are the same, gone or new, in their order.

    Put together, all but the gone ones are `after`, all but the new ones `before`. Of texts of more than `MOST_WORDS`
    words together only the whole is told apart.
    """
    here, there = _WORDS.findall(before), _WORDS.findall(after)
    if before == after or len(here) + len(there) > MOST_WORDS:
        whole: list[tuple[Piece, str]] = [("same", after)] if before == after else [("gone", before), ("new", after)]
        return [(piece, text) for piece, text in whole if text]
    made: list[tuple[Piece, str]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, here, there, autojunk=False).get_opcodes():
        if kind == "equal":
            made.append(("same", "".join(there[c:d])))
            continue
        if a < b:
            made.append(("gone", "".join(here[a:b])))
        if c < d:
            made.append(("new", "".join(there[c:d])))
    return made


def seen(text: str) -> str:
    """The text with what cannot be seen written out, such as `⟨U+202E⟩`; line ends and tabs stay."""
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))

"""Text: made short with what was cut said, made visible, and put in the singular where it is one."""

from __future__ import annotations

import re

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


def many(number: int, one: str, several: str | None = None) -> str:
    """A number and what is counted: `1 task`, `3 tasks`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def seen(text: str) -> str:
    """The text with what cannot be seen written out, such as `⟨U+202E⟩`; line ends and tabs stay."""
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))

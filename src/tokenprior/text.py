"""Text: made short, with what was cut said."""

from __future__ import annotations


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

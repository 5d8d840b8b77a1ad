"""Words: what phases of a run are called on the pages, and what differs between two texts, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

MOST_WORDS = 1_200  # of each text, signs counted as words
ALIKE = 0.3  # below this share of common words two texts have nothing to be held against each other,
SHORT = 12  # unless they are so short that both can be taken in at a glance

PHASES = {
    "rollout": "practice attempts",
    "judge": "judging",
    "summary": "summaries of attempts",
    "contrast": "comparing attempts",
    "revise": "changing the library",
    "gate": "trials at the gate",
    "evaluate": "held-out attempts",
    "audit": "measuring lessons",
    "tips": "tips with no rollouts",
}

Piece = tuple[Literal["same", "gone", "added"], str]


def word_diff(before: str, after: str) -> list[Piece] | None:
    """What a text became, in pieces that put together give both.

    Returns:
        `None` where the texts are too long, or have next to nothing in common.
    """
    # White space goes with the word before it; on its own it would make any two texts alike.
    old, new = (re.findall(r"\w+\s*|[^\w\s]\s*|\s+", text) for text in (before, after))
    if max(len(old), len(new)) > MOST_WORDS:
        return None
    # With `autojunk`, else a text of one word again and again would take the cube of its length.
    matcher = SequenceMatcher(None, old, new, autojunk=True)
    short = max(len(old), len(new)) <= SHORT
    if not short and (matcher.quick_ratio() < ALIKE or matcher.ratio() < ALIKE):
        return None
    pieces: list[Piece] = []
    for what, i, j, k, m in matcher.get_opcodes():
        if what == "equal":
            pieces.append(("same", "".join(old[i:j])))
            continue
        if j > i:
            pieces.append(("gone", "".join(old[i:j])))
        if m > k:
            pieces.append(("added", "".join(new[k:m])))
    return pieces

"""Plain text: the prior, word for word as the agent sees it."""

from __future__ import annotations

from tokenprior.exports.base import Around
from tokenprior.library import Library
from tokenprior.prior import TokenPrior


def dumps(library: Library, around: Around) -> str:
    text = TokenPrior.of(library).text
    return text + "\n" if text else ""

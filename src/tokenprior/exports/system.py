"""A system prompt: the user's own, with the prior where learning put it: at its end. A later export replaces it."""

from __future__ import annotations

from tokenprior.exports.base import Around, newline_of
from tokenprior.exports.prompt import with_prior
from tokenprior.library import Library


def dumps(library: Library, around: Around) -> str:
    own = around.instructions if around.into is None else around.into
    newline = newline_of(own)
    # The last line's end belongs to the file, not to the prompt in it.
    end = "" if around.into and not own.endswith("\n") else newline
    text = with_prior(library, own.removesuffix(end), newline)
    return text + end if text else ""

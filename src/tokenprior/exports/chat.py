"""Chat messages: the prior in the system message of the chat API, ready to be put before the user's."""

from __future__ import annotations

import json

from tokenprior.errors import DataError
from tokenprior.exports.base import Around, Reading
from tokenprior.exports.prompt import holds_prior, lessons_in, with_prior
from tokenprior.library import Library


def dumps(library: Library, around: Around) -> str:
    text = with_prior(library, around.instructions)
    messages = [{"role": "system", "content": text}] if text else []
    return json.dumps(messages, indent=1, ensure_ascii=False) + "\n"


def loads(content: str, run: str) -> Reading:
    """Raises DataError if the content is no list of messages; the prior may stand in any of them."""
    messages = json.loads(content)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError("expected a JSON list of chat messages")
    texts = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    return lessons_in(next(filter(holds_prior, texts), ""), run) if messages else Reading(library=Library())

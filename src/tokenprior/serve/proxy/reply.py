"""Reply: its name, its count of tokens and, where that is kept, its words, read from a copy as it passes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tokenprior.models.chat_body import ReadReply
from tokenprior.models.forward import EVENT_END, event_data, event_value

MOST_BYTES = 8 * 1024 * 1024  # of a reply, or of one event, that is looked at

_COUNTED = re.compile(rb'"usage"\s*:\s*\{')


class PassingReply:
    """Reads along with a reply of chat completions or of the responses API. It leaves what it cannot read, and never
    raises.

    Args:
        whole: whether its words are wanted too.

    Attributes:
        streamed: whether it is a stream of events; to be set before anything of it is fed.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self.streamed = False
        self._rest = bytearray()
        self._given_up = False
        self._read = ReadReply()
        self.id = ""

    @property
    def input_tokens(self) -> int:
        return self._read.usage.input_tokens

    @property
    def output_tokens(self) -> int:
        return self._read.usage.output_tokens

    @property
    def output(self) -> str:
        return self._read.text

    def feed(self, piece: bytes) -> None:
        """Take in a piece."""
        if self._given_up:
            return
        # A line end may be cut in two, so the last bytes of what was seen before are looked at again.
        seen, rest = max(0, len(self._rest) - 3), self._rest
        rest += piece
        if self.streamed:
            start = 0
            while end := EVENT_END.search(rest, max(start, seen)):
                self._event(bytes(rest[start : end.end()]))
                start = end.end()
            del rest[:start]
        if len(rest) > MOST_BYTES:
            self._given_up = True
            rest.clear()

    def end(self) -> None:
        """Take in what is left."""
        rest = bytes(self._rest)
        self._rest.clear()
        if self.streamed:
            self._event(rest)
        else:
            self._take(event_value(rest))

    def _event(self, event: bytes) -> None:
        if self._whole or not self.id or _COUNTED.search(event):
            self._take(event_value(event_data(event)))

    def _take(self, value: Mapping[str, Any]) -> None:
        inner = value.get("response")  # of an event of the responses API
        value = inner if isinstance(inner, Mapping) else value
        if not self.id and isinstance(value.get("id"), str):
            self.id = value["id"]
        self._read.count(value.get("usage"))
        if self._whole:
            with suppress(ValueError, TypeError):
                self._words(value.get("choices"), value.get("output"))

    def _words(self, choices: Any, items: Any) -> None:
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._read.choice(choice, "delta" if self.streamed else "message")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, Mapping) and item.get("type") == "message":
                self._read.message(item)

"""Splice: a change made to the bytes of a JSON request, so that all else stays byte for byte.

Parsed and written again, a request would lose the spelling of its numbers, its escapes and its white space, and a field
given twice. Here it is read once, and only the new text is put in between: `JsonBody.read(raw).spliced(edits)`.

A body that is no plain JSON object in UTF-8 (a byte order mark, a member given twice on the way to the place) is not
read: it goes on as it came, and whoever answers says what is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tokenprior.placement import Edit

_SPACE = re.compile(r"[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*|(\}))")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


# Numbers are not looked at, so one object stands for all of them: neither a million zeros nor a number of ten thousand
# digits costs anything.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=lambda _digits: 0, parse_float=lambda _digits: 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonBody:
    """A request body that was read.

    Attributes:
        text: as it came.
        value: what it says; every number in it is 0.
        spans: where the values of its members stand in the text.
    """

    text: str
    value: dict[str, Any]
    spans: dict[str, tuple[int, int]]

    @classmethod
    def read(cls, raw: bytes) -> JsonBody:
        """Read a body.

        Raises:
            ValueError: it is no JSON object, or no plain one.
        """
        try:
            text = str(raw, "utf-8")
            start = _past_space(text, 0)
            if text[start : start + 1] != "{":
                raise ValueError("no JSON object")
            value, spans, end = _members(text, start)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if _past_space(text, end) != len(text):
            raise ValueError("more than a JSON object")
        return cls(text=text, value=value, spans=spans)

    def spliced(self, edits: Iterable[Edit]) -> bytes:
        """The body with some changes, of which none lies within another.

        Raises:
            ValueError: a member is given twice on the way to a place.
        """
        pieces = sorted((self._piece(edit) for edit in edits), reverse=True)
        text = self.text
        for start, end, new in pieces:
            text = text[:start] + new + text[end:]
        return text.encode("utf-8")

    def _piece(self, edit: Edit) -> tuple[int, int, str]:
        """From where to where which text comes to stand."""
        new = json.dumps(edit.value)
        *above, place = edit.path
        value, start, end = self._found(above)
        if isinstance(value, dict):
            spans = _members(self.text, start)[1] if above else self.spans
            if place in spans:
                return *spans[str(place)], new
            return end - 1, end - 1, f"{', ' if value else ''}{json.dumps(place)}: {new}"
        if isinstance(value, str):
            return end - 1, end - 1, new[1:-1]
        if place == len(value):
            return end - 1, end - 1, f", {new}" if value else new
        at = _item(self.text, start, int(place))[0]
        return at, at, f"{new}, "

    def _found(self, path: Sequence[str | int]) -> tuple[Any, int, int]:
        """The value that a path leads to, where it begins and where it ends."""
        if not path:
            return self.value, _past_space(self.text, 0), len(self.text.rstrip(" \t\n\r"))
        value: Any = self.value[str(path[0])]
        start, end = self.spans[str(path[0])]
        for key in path[1:]:
            start, end = _item(self.text, start, key) if isinstance(key, int) else _members(self.text, start)[1][key]
            value = value[key]
        return value, start, end


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _members(text: str, start: int) -> tuple[dict[str, Any], dict[str, tuple[int, int]], int]:
    """The members of the object that begins at `start`, where their values stand, and its end."""
    value: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    decode, colon, following = _DECODER.raw_decode, _COLON.match, _NEXT.match
    at = _past_space(text, start + 1)
    if text[at : at + 1] == "}":
        return value, spans, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("expected the name of a member")
        key, at = decode(text, at)
        found = colon(text, at)
        if found is None or key in spans:
            raise ValueError("a member without a value, or given twice")
        begin = found.end()
        value[key], end = decode(text, begin)
        spans[key] = begin, end
        found = following(text, end)
        if found is None:
            raise ValueError("an object without its end")
        at = found.end()
        if found.lastindex:
            return value, spans, at


def _item(text: str, start: int, index: int) -> tuple[int, int]:
    """Where an item of the list that begins at `start` stands; the list is known to have it."""
    begin = _past_space(text, start + 1)
    for _ in range(index):
        found = _COMMA.match(text, _DECODER.raw_decode(text, begin)[1])
        assert found is not None
        begin = found.end()
    return begin, _DECODER.raw_decode(text, begin)[1]

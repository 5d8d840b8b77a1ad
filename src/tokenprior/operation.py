"""Operation: what the learning model may do to a library, and how its words become one.

A reply is text. `parse_operations` turns what can be understood into `Operation`s and names every part that
cannot: nothing is dropped silently and nothing raises. Whether an operation fits a library is decided later, by
`Library.apply`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from tokenprior.experience import one_line, parse_id
from tokenprior.reply import CUT, Malformed, parse_items
from tokenprior.text import shorten

MAX_NAME_WORDS = 8
NAME_FORM = "two to five words"  # what the prompts write in the place of a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """Put a new experience at the end. `lessons` are the numbers of the lessons it rests on."""

    name: str
    text: str
    reason: str = ""
    lessons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Modify:
    """Give an experience new words; it keeps its id and its place."""

    id: str
    name: str
    text: str
    reason: str = ""
    lessons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Make one experience of several; it keeps the id and place of the first, the others go."""

    ids: tuple[str, ...]
    name: str
    text: str
    reason: str = ""
    lessons: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Take an experience out."""

    id: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Leave an experience as it is; lessons that say the same again add to its support."""

    id: str
    reason: str = ""
    lessons: tuple[int, ...] = ()


Operation = Add | Modify | Merge | Delete | Keep

_KINDS = ("op", "operation", "action", "type")  # keys under which models name the kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Something of a learning reply that could not be used.

    Attributes:
        what: the part, cut to one line.
        reason: why.
    """

    what: str
    reason: str


def to_json(operation: Operation) -> dict[str, Any]:
    """An operation as the JSON object that `parse_operations` reads."""
    value: dict[str, Any] = {"op": type(operation).__name__}
    match operation:
        case Merge():
            value["ids"] = list(operation.ids)
        case Modify() | Delete() | Keep():
            value["id"] = operation.id
        case Add():
            pass
        case _:
            assert_never(operation)
    if isinstance(operation, Add | Modify | Merge):
        value |= {"name": operation.name, "text": operation.text}
    if not isinstance(operation, Delete):
        value["lessons"] = list(operation.lessons)
    return value | {"reason": operation.reason}


def parse_operations(reply: str) -> tuple[list[Operation], list[Drop]]:
    """Read the operations of a learning reply.

    Returns:
        The operations in their order, and what was dropped with its reason.

    Raises:
        Malformed: if the reply holds no list of objects at all, so that it is worth asking again.
    """
    operations: list[Operation] = []
    drops: list[Drop] = []
    items = parse_items(reply, wrappers=("operations", "ops", "updates"), marks=_KINDS)
    for item in items:
        made = _operation(item)
        if isinstance(made, Drop):
            drops.append(made)
        else:
            operations.append(made)
    if items and not operations:
        raise Malformed(f"none of the {len(items)} operations can be used: {drops[0].reason}")
    return operations, drops


def short_name(name: str) -> str:
    """A name as it may stand before a lesson; empty if the model wrote a sentence there, or repeated the form."""
    return name if len(name.split()) <= MAX_NAME_WORDS and name.strip(". ") and name != NAME_FORM else ""


def _operation(item: Any) -> Operation | Drop:
    if not isinstance(item, Mapping):
        return Drop(what=shorten(item), reason="not an object")
    if CUT in item:
        return Drop(what=shorten(item[CUT]), reason="the reply was cut off in the middle of it")
    fields = {str(key).casefold().strip(): value for key, value in item.items()}

    def text_of(*names: str) -> str:
        for name in names:
            if isinstance(fields.get(name), str) and fields[name].strip():
                return one_line(fields[name])
        return ""

    kind = text_of(*_KINDS).casefold()
    kind = {"update": "modify", "edit": "modify", "remove": "delete", "none": "keep", "create": "add"}.get(kind, kind)
    reason, name = text_of("reason", "why", "rationale"), short_name(text_of("name", "title"))
    text = text_of("text", "content", "experience", "lesson")
    lessons = _numbers(fields.get("lessons", fields.get("sources")))
    raw_ids = fields.get("ids", fields.get("id"))
    given = list(raw_ids) if isinstance(raw_ids, list) else [] if raw_ids in (None, "") else [raw_ids]
    if kind in ("merge", "modify", "delete", "keep") and not given:
        return Drop(what=shorten(item), reason=f"{kind} without an id")
    ids: list[str] = []
    for one in given if kind != "add" else []:
        parsed = parse_id(one)
        if parsed is None:
            return Drop(what=shorten(item), reason=f"{shorten(one, 20)!r} is no id of an experience")
        if parsed not in ids:
            ids.append(parsed)
    if kind in ("add", "modify", "merge") and not text:
        return Drop(what=shorten(item), reason=f"{kind} without a text")
    match kind:
        case "add":
            return Add(name=name, text=text, reason=reason, lessons=lessons)
        case "modify":
            return Modify(id=ids[0], name=name, text=text, reason=reason, lessons=lessons)
        case "merge" if len(ids) == 1:
            return Drop(what=shorten(item), reason="merge of one experience: a merge needs at least two ids")
        case "merge":
            return Merge(ids=tuple(ids), name=name, text=text, reason=reason, lessons=lessons)
        case "delete":
            return Delete(id=ids[0], reason=reason)
        case "keep":
            return Keep(id=ids[0], reason=reason, lessons=lessons)
        case _:
            return Drop(what=shorten(item), reason=f"unknown operation {kind!r}")


def _numbers(value: Any) -> tuple[int, ...]:
    """Lesson numbers as models write them: `[1, 2]`, `["L1"]`, `"1, 2"`, `3`."""
    found: list[int] = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str | int) and not isinstance(one, bool):
            found += [int(digits) for digits in re.findall(r"\d{1,6}", str(one))]
    return tuple(dict.fromkeys(found))

"""What one span of a trace says: its attributes without the names of their types, its messages, its error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenprior.errors import DataError
from tokenprior.logs.base import conversation, parsed, short
from tokenprior.rollout import Message

SCORE = "gen_ai.evaluation.score.value"
_CHATS = ("chat", "text_completion", "generate_content", "completion")
_ERRORS = (2, "STATUS_CODE_ERROR", "ERROR")
_ROLES = ("system", "user", "assistant", "tool")
# Read once and then let go: each span of a conversation repeats all of it.
_HEAVY = re.compile(r"gen_ai\.(?:input|output)\.messages$|gen_ai\.(?:prompt|completion)\.\d|gen_ai\.tool\.definitions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span with plain attributes.

    Attributes:
        start: nanoseconds or a date, whichever the file has.
        attributes: without those that hold messages.
        events: only evaluations.
        error: the message of the error that it ended with, or `None`.
        where: file and line.
        finished: the model's reason to stop.
    """

    trace: str
    start: int | str
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...] = ()
    error: str | None = None
    where: str = ""
    messages: tuple[Message, ...] = ()
    finished: str = ""

    @property
    def is_chat(self) -> bool:
        return self.attributes.get("gen_ai.operation.name", "chat") in _CHATS


def span_from(value: Any, where: str, source: str) -> Span:
    """A span as OTLP/JSON or an exporter to lines writes it.

    Raises:
        DataError: it is none, or its messages cannot be read.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected a span, got {short(value)}")
    context = value.get("context")
    trace = value.get("traceId") or value.get("trace_id")
    trace = trace or (context.get("trace_id") if isinstance(context, Mapping) else None)
    if not isinstance(trace, str):
        raise DataError(f"{where}: expected a span with a traceId, got one with {sorted(value)[:8]}")
    attributes = _attributes(value.get("attributes"))
    listed = value.get("events")
    events = tuple(
        (str(event.get("name")), _attributes(event.get("attributes")))
        for event in (listed if isinstance(listed, list) else ())
        if isinstance(event, Mapping)
    )
    status = value.get("status")
    error = None
    if isinstance(status, Mapping) and status.get("code", status.get("status_code")) in _ERRORS:
        error = str(status.get("message") or status.get("description") or "")
    start = value.get("startTimeUnixNano", value.get("start_time", 0))
    messages = _messages(attributes, events, where)
    return Span(
        trace=trace,
        # OTLP writes nanoseconds as a text, and the console exporter a date: both are in order within one file.
        start=int(start) if re.fullmatch(r"\d{1,25}", str(start)) else str(start),
        attributes={key: held for key, held in attributes.items() if not _HEAVY.match(key)},
        events=tuple(event for event in events if SCORE in event[1]),
        error=error,
        where=source,
        messages=messages,
        finished=_finish_reason(attributes, events),
    )


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes as a mapping, from the list of OTLP or from a mapping."""
    if isinstance(value, Mapping):
        return {str(key): held for key, held in value.items()}
    pairs = [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
    return {str(one.get("key")): _plain(one.get("value")) for one in pairs}


def _plain(value: Any) -> Any:
    """A value without the name of its type."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    [(kind, held)] = value.items()
    match kind:
        case "intValue":
            return int(held) if re.fullmatch(r"-?\d{1,25}", str(held)) else held
        case "arrayValue":
            held = held.get("values") if isinstance(held, Mapping) else None
            return [_plain(one) for one in held] if isinstance(held, list) else []
        case "kvlistValue":
            return _attributes(held.get("values") if isinstance(held, Mapping) else None)
        case "stringValue" | "boolValue" | "doubleValue" | "bytesValue":
            return held
    return value


def _messages(
    attributes: Mapping[str, Any], events: Iterable[tuple[str, dict[str, Any]]], where: str
) -> tuple[Message, ...]:
    """The conversation of a span, in whichever way it was recorded; nothing if it was not."""
    for name, event in events:
        if name == "gen_ai.client.inference.operation.details":
            attributes = {**attributes, **event}  # newer instrumentations may record the contents there
    made: list[Any] = []
    for name in ("gen_ai.input.messages", "gen_ai.output.messages"):
        value = _decoded(attributes.get(name), f"{where}: attribute {name!r}")
        for one in value if isinstance(value, list) else []:
            made += _of_parts(one)
    if made:
        told = _decoded(
            attributes.get("gen_ai.system_instructions"), f"{where}: attribute 'gen_ai.system_instructions'"
        )
        if told:
            parts = told if isinstance(told, list) else [{"type": "text", "content": str(told)}]
            made = [*_of_parts({"role": "system", "parts": parts}), *made]
    made = made or _numbered(attributes) or _of_events(events, where)
    return conversation(made, "gen_ai", where)


def _decoded(value: Any, where: str) -> Any:
    return parsed(value.encode("utf-8", "surrogatepass"), where) if isinstance(value, str) and value else value


def _of_parts(message: Any) -> list[Any]:
    """A message of parts as messages of the OpenAI shape: one, and one for each tool result in it."""
    if not isinstance(message, Mapping) or not isinstance(message.get("parts"), list):
        return [message]
    texts: list[str] = []
    calls: list[Any] = []
    results: list[Any] = []
    for part in message["parts"]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(str(part.get("content", "")))
        elif kind == "tool_call":
            calls.append(
                {"id": part.get("id"), "function": {"name": part.get("name"), "arguments": part.get("arguments")}}
            )
        elif kind == "tool_call_response":
            given = part.get("response", part.get("result"))
            results.append({"role": "tool", "content": given, "tool_call_id": part.get("id")})
        elif kind != "reasoning":
            texts.append(f"[{kind or 'part'}]")  # a file, a picture: named, never silently gone
    role = message.get("role", "assistant")
    own = {"role": role, "content": "\n".join(texts), "tool_calls": calls}
    return [*([own] if texts or calls or not results else []), *results]


def _numbered(attributes: Mapping[str, Any]) -> list[Any]:
    """Messages from attributes such as `gen_ai.prompt.0.content`."""
    made: dict[tuple[int, int], dict[str, Any]] = {}
    calls: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
    for key, value in attributes.items():
        found = re.fullmatch(r"gen_ai\.(prompt|completion)\.(\d{1,6})\.(\w+)(?:\.(\d{1,6})\.(\w+))?", key)
        if found is None:
            continue
        place = (int(found[1] == "completion"), int(found[2]))
        made.setdefault(place, {})
        if found[3] == "tool_calls" and found[4]:
            calls.setdefault(place, {}).setdefault(int(found[4]), {})[found[5]] = value
        elif not found[4]:
            made[place][found[3]] = value
    messages: list[Any] = []
    for place in sorted(made):
        one: dict[str, Any] = {"role": "assistant" if place[0] else "user"} | made[place]
        one["tool_calls"] = [
            {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("arguments")}}
            for _, call in sorted(calls.get(place, {}).items())
        ]
        messages.append(one)
    return messages


def _of_events(events: Iterable[tuple[str, dict[str, Any]]], where: str) -> list[Any]:
    """Messages from events such as `gen_ai.user.message`, the last one from `gen_ai.choice`."""
    made: list[Any] = []
    for name, attributes in events:
        role = name.removeprefix("gen_ai.").removesuffix(".message")
        body: Mapping[str, Any] = attributes
        if name == "gen_ai.choice":
            role, body = "assistant", _event_body(attributes, "message")
        elif role not in _ROLES or not name.endswith(".message"):
            continue
        calls = body.get("tool_calls")
        made.append(
            {
                "role": role,
                "content": body.get("content"),
                "tool_call_id": body.get("id") if role == "tool" else None,
                "tool_calls": _decoded(calls, f"{where}: event {name}, tool_calls"),
            }
        )
    return made


def _event_body(attributes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    held = attributes.get(name)
    if isinstance(held, str):
        try:
            held = json.loads(held)
        except (ValueError, RecursionError):
            return {"content": held}
    return held if isinstance(held, Mapping) else attributes


def _finish_reason(attributes: Mapping[str, Any], events: Iterable[tuple[str, dict[str, Any]]]) -> str:
    reasons = attributes.get("gen_ai.response.finish_reasons") or attributes.get("gen_ai.completion.0.finish_reason")
    if isinstance(reasons, list):
        reasons = reasons[0] if reasons else ""
    return str(reasons or next((e["finish_reason"] for _, e in events if "finish_reason" in e), ""))

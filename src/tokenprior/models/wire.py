"""Wire: requests, replies, results of tools and errors as JSON, for another process of ours.

Unlike in the store nothing is left out or named by a hash: what arrives is what was sent, images included. Only
`Request.on_bytes` and `on_reply` stay behind, for a function cannot travel.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from tokenprior import errors
from tokenprior.models.base import CallFailed, Reply, Request
from tokenprior.redact import redact
from tokenprior.tools.base import ToolResult

MOST_BYTES = 64 * 1024 * 1024  # of one question; it may hold images
HEARTBEAT_S = 60.0  # a silent end of a connection is noticed after at most this and a half

_REQUEST, _REPLY, _RESULT = TypeAdapter(Request), TypeAdapter(Reply), TypeAdapter(ToolResult)


def dumps(value: Any) -> str:
    """A JSON text. Lone surrogates, which models do write, are kept as escapes."""
    return json.dumps(value, separators=(",", ":"))


def request_to_json(request: Request) -> dict[str, Any]:
    made: dict[str, Any] = _REQUEST.dump_python(request, mode="json", exclude={"on_bytes", "on_reply"})
    return made


def request_from_json(value: Any) -> Request:
    """
    Raises:
        ValueError: it is none.
    """
    return _REQUEST.validate_python(value)


def reply_to_json(reply: Reply) -> dict[str, Any]:
    made: dict[str, Any] = _REPLY.dump_python(reply, mode="json")
    return made


def reply_from_json(value: Any) -> Reply:
    """
    Raises:
        ValueError: it is none.
    """
    return _REPLY.validate_python(value)


def result_to_json(result: ToolResult) -> dict[str, Any]:
    made: dict[str, Any] = _RESULT.dump_python(result, mode="json")
    return made


def result_from_json(value: Any) -> ToolResult:
    """
    Raises:
        ValueError: it is none.
    """
    return _RESULT.validate_python(value)


def error_to_json(error: Exception) -> dict[str, Any]:
    """An error by its name, its text without secrets, and what it carries."""
    carried = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)}
    return {"name": type(error).__name__, "text": redact(str(error)), "carried": carried}


def error_from_json(value: dict[str, Any]) -> Exception:
    """The error as what it was, if it is one of ours; else a `RuntimeError` that names it."""
    name, text = str(value["name"]), str(value["text"])
    kind = CallFailed if name == "CallFailed" else vars(errors).get(name)
    if not (isinstance(kind, type) and issubclass(kind, errors.TokenpriorError | CallFailed)):
        return RuntimeError(f"{name}: {text}")
    error = kind.__new__(kind, text)  # their constructors make the text out of parts
    vars(error).update(value.get("carried", {}))
    return error

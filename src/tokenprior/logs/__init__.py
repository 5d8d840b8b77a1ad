"""Logs: attempts that were made elsewhere, read as rollouts with rewards. Nothing is called, everything is data.

Four forms are read: rows in the message shape of OpenAI (`messages`), logs of Inspect (`inspect`), traces of
OpenTelemetry (`otel`), and requests that a store kept (`served`). Each attempt keeps where it stands in the log, in its
`metadata["source"]`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tokenprior.errors import ConfigError, DataError
from tokenprior.logs import inspect, messages, otel, served
from tokenprior.logs.base import LoggedTask, grouped, lines, parsed, whole

__all__ = ["Form", "LoggedTask", "load_logs"]

Form = Literal["auto", "messages", "inspect", "otel", "served"]

_READERS = {"messages": messages.read, "inspect": inspect.read, "otel": otel.read, "served": served.read}
_FIELDS: dict[str, tuple[str, ...]] = {
    "messages": tuple(messages.USUAL),
    "inspect": ("reward",),
    "otel": ("task", "reward", "question", "answer"),
    "served": ("library",),
}


def load_logs(
    path: str | Path, *, form: Form = "auto", fields: Mapping[str, str] | None = None
) -> tuple[LoggedTask, ...]:
    """Read attempts from a log, by task.

    Args:
        path: JSON lines, an Inspect log (`.eval`, `.json`), traces as OTLP/JSON, or a store.
        form: `auto` tells by what the file begins with.
        fields: which of the log's fields stand for `task`, `reward`, `messages`, `question`, `answer`, `output` and
            `rollouts`; a name such as `metadata.task_id` reaches into objects. Those not named are looked for under
            their usual names. An Inspect log takes `reward`, the name of a score; a trace takes `task`, `reward`,
            `question` and `answer`, names of attributes; a store takes `library`, the name that one is served under.

    Returns:
        The tasks in the order of the log. An attempt without a reward is unscored; one that ended with an error, where
        the form says so, has failed. Attempts at a task without a `question` are at the first message of its user.

    Raises:
        DataError: names the file, the place in it, what was got and what was expected.
        ConfigError: an unknown form, or `fields` names something else than the form has.
    """
    path = Path(path)
    if form != "auto" and form not in _READERS:
        raise ConfigError(f"form is {form!r}, expected one of auto, {', '.join(_READERS)}")
    try:
        read_as = _form(path) if form == "auto" else form
        fields = dict(fields or {})
        if unknown := set(fields) - set(_FIELDS[read_as]):
            raise ConfigError(
                f"fields maps {sorted(unknown)}, but a log of the form {read_as} has only {list(_FIELDS[read_as])}"
            )
        logged = grouped(_READERS[read_as](path, fields))
    except RecursionError as error:
        raise DataError(f"{path}: objects nested too deeply to be read") from error
    if not logged:
        why = ": expected requests with a reward, served with traffic.keep" if read_as == "served" else ""
        raise DataError(f"{path}: no attempts in it{why}")
    return logged


def _form(path: Path) -> str:
    if zipfile.is_zipfile(path):
        return "inspect"
    if _begins(path, served.MAGIC):
        return "served"
    first = next(lines(path), None)
    if first is None:
        raise DataError(f"{path}: no rows")
    try:
        value = parsed(first[1], f"{path}:{first[0]}", constants=True)
    except DataError:
        # One value over many lines; if it is none either, the first line is what is wrong.
        try:
            value = parsed(whole(path), str(path), constants=True)
        except DataError:
            return "messages"
    return _form_of(value[0] if isinstance(value, list) and value else value)


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _form_of(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "messages"
    if "resourceSpans" in value:
        return "otel"
    if "samples" in value and ("eval" in value or "status" in value):
        return "inspect"
    context = value.get("context")
    is_span = any(key in value for key in ("traceId", "trace_id")) and ("spanId" in value or "span_id" in value)
    return "otel" if is_span or (isinstance(context, Mapping) and "trace_id" in context) else "messages"

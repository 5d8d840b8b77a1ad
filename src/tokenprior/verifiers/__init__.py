"""Verifiers: what makes a reward of an attempt. `make_verifier` builds one from a config.

All options of a kind are the fields of its dataclass, which also hold their defaults and meaning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from tokenprior.errors import ConfigError
from tokenprior.models.base import Model
from tokenprior.task import Task
from tokenprior.verifiers.base import Verifier
from tokenprior.verifiers.choice import Choice
from tokenprior.verifiers.contains import Contains, Regex
from tokenprior.verifiers.exact import Exact
from tokenprior.verifiers.function import PythonFunction
from tokenprior.verifiers.json_schema import JsonSchema
from tokenprior.verifiers.judge import Judge
from tokenprior.verifiers.math import Math
from tokenprior.verifiers.number import Number
from tokenprior.verifiers.sql import Sql
from tokenprior.verifiers.take import Take

__all__ = [
    "Choice",
    "Contains",
    "Exact",
    "JsonSchema",
    "Judge",
    "Math",
    "Number",
    "PythonFunction",
    "Regex",
    "Sql",
    "Take",
    "Verifier",
    "make_verifier",
]

_KINDS: dict[str, type[Any]] = {
    "exact": Exact,
    "choice": Choice,
    "number": Number,
    "contains": Contains,
    "regex": Regex,
    "math": Math,
    "json_schema": JsonSchema,
    "judge": Judge,
    "function": PythonFunction,
    "sql": Sql,
}
_LIVE = ("model", "source")  # not settings: a live object, and what `load` fills in


def make_verifier(
    spec: Mapping[str, Any], *, model: Model | None = None, tasks: Iterable[Task] | None = None
) -> Verifier:
    """The verifier that a config names.

    Args:
        spec: `kind` (exact, choice, number, contains, regex, math, json_schema, judge, function or sql) and any options
            that kind, such as `{"kind": "exact", "take": "last_line"}`.
        model: the judge of kind `judge`.
        tasks: where a `choice` without options takes them from: the answers of all tasks, sorted.

    Raises:
        ConfigError: an unknown kind or option, a value of the wrong type, a missing option; names the nearest right
            key.
        MissingExtra: the kind needs a package that is not installed.
    """
    if "kind" not in spec:
        raise ConfigError(f"verifier: kind is missing; expected one of {', '.join(_KINDS)}")
    kind = spec["kind"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(
            f"verifier: kind is {kind!r}, expected one of {', '.join(_KINDS)}{_nearest(str(kind), _KINDS)}"
        )
    made = _KINDS[kind]
    given = {key: value for key, value in spec.items() if key != "kind"}
    options = [item for item in fields(made) if item.name not in _LIVE and not item.name.startswith("_")]
    names = [item.name for item in options]
    for key, value in given.items():
        if key not in names:
            raise ConfigError(
                f"verifier {kind}: unknown option {key!r} (got {value!r}); "
                f"expected one of {', '.join(names)}{_nearest(str(key), names)}"
            )
    if made is Choice and "options" not in given and tasks is not None:
        given["options"] = sorted({answer for task in tasks for answer in task.accepted})
    for item in options:
        if item.name not in given and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"verifier {kind}: {item.name} is missing; expected a value for it")
    hints = get_type_hints(made)
    settings = {key: _checked(kind, key, value, hints[key]) for key, value in given.items()}
    if made is PythonFunction and isinstance(settings["function"], str):
        return PythonFunction.load(settings.pop("function"), **settings)
    if made is Judge:
        if model is None:
            raise ConfigError("verifier judge: needs a model; name one for the judge")
        settings["model"] = model
    verifier: Verifier = made(**settings)
    return verifier


def _checked(kind: str, key: str, value: Any, hint: Any) -> Any:
    """The value of one option, of the type that its field has."""
    if key == "take" and isinstance(value, str | Take):
        return Take.parse(value) if isinstance(value, str) else value
    if key == "function" and (isinstance(value, str) or callable(value)):
        return value
    if key == "options" and isinstance(value, list | tuple):
        # YAML reads labels such as 1 and true as a number and a truth value; answers are compared as text.
        value = [str(option) if isinstance(option, int | float) else option for option in value]
    if isinstance(value, list):
        value = tuple(value)
    expected = {"take": "a text such as last_line", "function": "module:function"}.get(key)
    if expected is not None:
        raise ConfigError(f"verifier {kind}: {key} is {value!r}, expected {expected}")
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"verifier {kind}: {key} is {value!r}: {problem['msg']}") from error


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

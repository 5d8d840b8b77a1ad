"""Verifiers: what makes a reward of an attempt. `make_verifier` builds one from a config.

All options of a kind are the fields of its dataclass, which also hold their defaults and meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from tokenprior.errors import ConfigError
from tokenprior.logs.base import LoggedTask
from tokenprior.models.base import Model
from tokenprior.options import checked, kind_of, typed
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
from tokenprior.verifiers.recorded import Recorded
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
    "Recorded",
    "Regex",
    "Sql",
    "Take",
    "Verifier",
    "asks_a_model",
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
    "recorded": Recorded,
    "sql": Sql,
}


def make_verifier(
    spec: Mapping[str, Any],
    *,
    model: Model | None = None,
    tasks: Iterable[Task] | None = None,
    folder: str | Path = ".",
    logged: Sequence[LoggedTask] = (),
) -> Verifier:
    """The verifier that a config names.

    Args:
        spec: `kind` (exact, choice, number, contains, regex, math, json_schema, judge, sql, function or recorded) and
            any options of that kind, such as `{"kind": "exact", "take": "last_line"}`. The one option of `recorded` is
            `otherwise`, another such spec, for attempts that no log holds.
        model: the judge of kind `judge`.
        tasks: where a `choice` without options takes them from: the answers of all tasks, sorted.
        folder: where the files of a `function` or of `sql` are looked for.
        logged: where the rewards of kind `recorded` are.

    Raises:
        ConfigError: an unknown kind or option, a value of the wrong type, a missing option; names the nearest right
            key.
        MissingExtra: the kind needs a package that is not installed.
    """
    kind = kind_of(spec, _KINDS, "verifier")
    made = _KINDS[kind]
    what = f"verifier {kind}"
    if made is Recorded:
        if not logged:
            raise ConfigError("verifier recorded: gives the rewards of logs, and there are none: set `logs`")
        return _recorded(spec, logged, partial(make_verifier, model=model, tasks=tasks, folder=folder))
    given = dict(spec)
    if made is Choice and "options" not in given and tasks is not None:
        given["options"] = sorted({answer for task in tasks for answer in task.accepted})
    live = {"source": "", "model": model, "folder": folder}
    options = checked(given, made, what, live=live, free=("take", "function", "options"))
    for key in options.keys() & {"take", "options"}:
        options[key] = _read(what, key, options[key], get_type_hints(made)[key])
    if made is PythonFunction:
        function = options.pop("function")
        del options["source"]
        if isinstance(function, str):
            return PythonFunction.load(function, folder=folder, **options)
        if not callable(function):
            raise ConfigError(f"{what}: function is {function!r}, expected module:function")
        options["function"] = function
    if made is Judge and model is None:
        raise ConfigError("verifier judge: needs a model; name one for the judge")
    verifier: Verifier = made(**options)
    return verifier


def asks_a_model(spec: Mapping[str, Any]) -> bool:
    """Whether the verifier that a config names needs a judge."""
    otherwise = spec.get("otherwise")
    return "judge" in (spec.get("kind"), otherwise.get("kind") if isinstance(otherwise, Mapping) else otherwise)


def _recorded(
    spec: Mapping[str, Any], logged: Sequence[LoggedTask], make: Callable[[Mapping[str, Any]], Verifier]
) -> Recorded:
    if unknown := sorted(set(spec) - {"kind", "otherwise"}):
        raise ConfigError(f"verifier recorded: unknown option {unknown[0]!r}: expected otherwise, or none")
    otherwise = spec.get("otherwise")
    if otherwise is None:
        return Recorded(logged)
    inner = {"kind": otherwise} if isinstance(otherwise, str) else otherwise
    if not isinstance(inner, Mapping) or inner.get("kind") == "recorded":
        raise ConfigError("verifier recorded: otherwise is the verifier of attempts that no log holds, such as exact")
    return Recorded(logged, otherwise=make(inner))


def _read(what: str, key: str, value: Any, hint: Any) -> Any:
    """An option that a config writes in another way than its field is."""
    if key == "take":
        if not isinstance(value, str | Take):
            raise ConfigError(f"{what}: take is {value!r}, expected a text such as last_line")
        return Take.parse(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple):
        # YAML reads labels such as 1 and true as a number and a truth value; answers are compared as text.
        value = tuple(str(option) if isinstance(option, int | float) else option for option in value)
    return typed(what, key, value, hint)

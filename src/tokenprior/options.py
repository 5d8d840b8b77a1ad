"""Options: the settings of a member of a family, read from a config and checked against the fields of its class."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from tokenprior.errors import ConfigError


def kind_of(spec: Mapping[str, Any], kinds: Mapping[str, Any], what: str) -> str:
    """The `kind` that a config names.

    Raises:
        ConfigError: it is missing or unknown; names the nearest right one.
    """
    if "kind" not in spec:
        raise ConfigError(f"{what}: kind is missing; expected one of {', '.join(kinds)}")
    kind = spec["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{what}: kind is {kind!r}, expected one of {', '.join(kinds)}{_nearest(str(kind), kinds)}")
    return kind


def checked(
    spec: Mapping[str, Any],
    made: type[Any],
    what: str,
    *,
    live: Mapping[str, Any] | None = None,
    free: Collection[str] = (),
) -> dict[str, Any]:
    """The options of a config as arguments of a dataclass: all known, none missing, each of the type of its field.

    Args:
        spec: `kind` and options; a list stands for a tuple.
        what: names the member in messages, such as `verifier exact`.
        live: arguments that no config gives, such as a model or the folder of the config; those that the class has no
            field for are left out.
        free: options that the caller reads itself; they are taken as they are.

    Raises:
        ConfigError: names the option, what was got and expected, and the nearest right option.
    """
    live = live or {}
    options = [item for item in fields(made) if item.name not in live and not item.name.startswith("_")]
    names = [item.name for item in options]
    given = {key: value for key, value in spec.items() if key != "kind"}
    for key, value in given.items():
        if key not in names:
            raise ConfigError(
                f"{what}: unknown option {key!r} (got {value!r}); "
                f"expected one of {', '.join(names) or 'none'}{_nearest(str(key), names)}"
            )
    for item in options:
        if item.name not in given and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"{what}: {item.name} is missing; expected a value for it")
    hints = get_type_hints(made)
    read = {key: value if key in free else typed(what, key, value, hints[key]) for key, value in given.items()}
    return read | {item.name: live[item.name] for item in fields(made) if item.name in live}


def typed(what: str, key: str, value: Any, hint: Any) -> Any:
    """One value, of the type that its field has; a list stands for a tuple.

    Raises:
        ConfigError: it has another type.
    """
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, list):
        value = tuple(value)
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{what}: {key} is {value!r}: {problem['msg']}") from error


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""

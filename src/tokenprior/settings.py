"""Settings: what all parts of a config share, and how a mistake in one is told in one line."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0.0, le=5.0)]


class Settings(BaseModel):
    """Frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation in one line, with the nearest right key for an unknown one."""
    problems = error.errors(include_url=False)
    # A misspelt key is unknown and its right name missing: the first says more.
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    path, known = _followed(model, problem["loc"])
    where = ".".join(path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        return f"unknown key {where!r}{hint}{more}"
    if problem["type"] == "missing":
        return f"key {where!r} is missing{more}"
    if not where:  # what several keys together do not make
        return f"{problem['msg'].removeprefix('Value error, ')}{more}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"key {where!r}: got {problem['input']!r:.80}; {said[:1].lower()}{said[1:]}{more}"


def _followed(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The keys of a location as a user wrote them, and those known where its last one stands.

    Where settings are of several kinds, pydantic puts the kind into the location; no user wrote it there.
    """
    path: list[str] = []
    here: list[type[BaseModel]] = [model]
    known: list[str] = []
    for part in location:
        kinds = (
            [one for one in here if str(part) in get_args(one.model_fields["kind"].annotation)] if len(here) > 1 else []
        )
        if kinds:
            here = kinds
            continue
        path.append(str(part))
        known = sorted({field for one in here for field in one.model_fields})
        annotation = next(
            (one.model_fields[str(part)].annotation for one in here if str(part) in one.model_fields), None
        )
        # What is no key of these settings is an index of a list, or a name that the user gave to one of several.
        here = here if annotation is None else list(_models(annotation))
    return path, known


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for one in get_args(annotation) for model in _models(one)]

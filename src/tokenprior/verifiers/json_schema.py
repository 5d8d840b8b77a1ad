"""JsonSchema: the output is JSON and fits a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import quoted
from tokenprior.verifiers.take import WHOLE_OUTPUT, NotRead, Take

RULE = 1
MAX_ERRORS = 3
_CUT_OFF = " The attempt was cut off at its token limit before it ended."


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """1.0 if the text is one JSON value that fits the schema, else 0.0. Nothing is mended, nothing is fetched.

    Attributes:
        schema: a JSON Schema (2020-12 unless its `$schema` says otherwise); `None` takes the answer of the task.
        take: where the JSON stands; `fence` for models that put it in backticks.

    Raises:
        ConfigError: the schema is not valid.
    """

    schema: Mapping[str, Any] | None = None
    take: Take = WHOLE_OUTPUT

    def __post_init__(self) -> None:
        if self.schema is not None and (problem := _schema_problem(self.schema)):
            raise ConfigError(f"json_schema: schema is not valid: {problem}")

    @property
    def fingerprint(self) -> str:
        schema = None if self.schema is None else dict(self.schema)
        return content_hash(["json_schema", RULE, schema, str(self.take)])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Validate. Unscored if there is no schema, it is not valid, or refers to one elsewhere."""
        schema = self.schema
        if schema is None:
            if not isinstance(task.answer, Mapping):
                return Reward.unscored("task has no reference answer that is a JSON schema")
            schema = task.answer
            if problem := _schema_problem(schema):
                return Reward.unscored(f"the schema of the task is not valid: {problem}")
        try:
            read = await self.take.read(rollout.output)
        except NotRead as error:
            return Reward.unscored(str(error))
        cut_off = _CUT_OFF if rollout.stop is StopReason.LENGTH else ""
        if read is None:
            return Reward(value=0.0, feedback=f"Nothing was found in {self.take.words}. Wanted: JSON.{cut_off}")
        try:
            value = json.loads(read, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            shown = f"Read from {self.take.words}: {quoted(read)}. It is not JSON: {_parse_problem(error)}."
            if read.startswith("```") or (self.take.place == "all" and "```" in read):
                shown += " Only the JSON was wanted, without backticks or words around it."
            return Reward(value=0.0, extracted=read, feedback=shown + cut_off)
        return _validate(schema, value, read)


def _validate(schema: Mapping[str, Any], value: Any, read: str) -> Reward:
    import referencing.exceptions
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    # Without a registry of its own the validator would fetch what a $ref names.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=EMPTY_REGISTRY)
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    except referencing.exceptions.Unresolvable as error:
        return Reward.unscored(f"the schema refers to {error.ref!r}, which is not in it; nothing is fetched")
    except RecursionError:
        return Reward.unscored("the schema refers to itself without end, or the JSON is nested too deeply")
    if not errors:
        return Reward(value=1.0, extracted=read, feedback="Correct.")
    lines = [f"At {error.json_path}: {_short(error.message)}." for error in errors[:MAX_ERRORS]]
    more = f" {len(errors) - MAX_ERRORS} more errors." if len(errors) > MAX_ERRORS else ""
    feedback = "The JSON does not fit the schema. " + " ".join(lines) + more
    return Reward(value=0.0, extracted=read, feedback=feedback)


def _schema_problem(schema: Mapping[str, Any]) -> str:
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))
    except SchemaError as error:
        return f"at {error.json_path}: {_short(error.message)}"
    return ""


def _parse_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _short(message: str, limit: int = 160) -> str:
    # jsonschema puts the whole instance in front; what is wrong with it stands at the end.
    return message if len(message) <= limit else f"{message[:60]} … {message[-(limit - 63) :]}"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not allowed")

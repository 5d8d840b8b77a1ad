"""Logs of Inspect (inspect_ai): `.eval` files, and the same log as one JSON value.

A sample is a task, each epoch of it an attempt. A score of C, I or P is 1, 0 or 0.5; N (no answer was given) is
unscored, where Inspect itself counts 0. A sample that ended with an error is a failed attempt.
Source: https://inspect.aisi.org.uk/eval-logs.html, EvalLog and EvalSample.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprior.errors import DataError
from tokenprior.logs.base import (
    MOST_BYTES,
    NO_REWARD,
    Found,
    conversation,
    last_text,
    looked_up,
    parsed,
    short,
    task_name,
    tokens,
    whole,
)
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, StopReason, Usage

_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
_STOPS = {"max_tokens": StopReason.LENGTH, "model_length": StopReason.LENGTH, "content_filter": StopReason.FILTERED}


def read(path: Path, fields: Mapping[str, str]) -> Iterator[Found]:
    """The attempts of a log.

    Args:
        fields: `reward` names the score to take, and behind a dot a part of it; otherwise it is the first.

    Raises:
        DataError: the file is no such log, or a sample is not as it should be.
    """
    samples = list(_zipped(path) if zipfile.is_zipfile(path) else _plain(path))
    for where, sample in sorted(samples, key=_place):
        yield _found(sample, where, fields.get("reward"))


def _place(sample: tuple[str, dict[str, Any]]) -> tuple[bool, int, str, int]:
    """By id and epoch, for in a zip 10 comes before 2."""
    name, epoch = sample[1].get("id"), sample[1].get("epoch")
    number = name if isinstance(name, int) else 0
    return isinstance(name, str), number, name if isinstance(name, str) else "", epoch if isinstance(epoch, int) else 0


def _plain(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    log = parsed(whole(path), str(path), constants=True)
    samples = log.get("samples") if isinstance(log, dict) else None
    if not isinstance(samples, list):
        raise DataError(
            f"{path}: no list of samples: expected an Inspect log with its samples (it may have been written with "
            "--no-log-samples)"
        )
    for place, sample in enumerate(samples):
        yield _checked(f"{path.name}:samples[{place}]", sample)


def _zipped(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as log:
            members = [one for one in log.infolist() if one.filename.startswith("samples/")]
            members = [one for one in members if one.filename.endswith(".json")]
            if not members:
                raise DataError(f"{path}: no samples/*.json in it: expected an Inspect .eval log with its samples")
            for member in members:
                where = f"{path.name}:{member.filename}"
                if member.file_size > MOST_BYTES:
                    raise DataError(f"{where}: {member.file_size:,} bytes, at most {MOST_BYTES:,} are read of a sample")
                with log.open(member) as file:  # the size that the header gives need not be true
                    content = file.read(MOST_BYTES + 1)
                yield _checked(where, parsed(content[:MOST_BYTES], where, constants=True))
    except NotImplementedError as error:
        raise DataError(
            f"{path}: compressed in a way that this Python cannot read ({error}): convert it with "
            "`inspect log convert --to json`"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: not a whole .eval log: {error}") from error


def _checked(where: str, sample: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(sample, dict):
        raise DataError(f"{where}: expected a sample, got {short(sample)}")
    attachments = sample.get("attachments")
    if isinstance(attachments, dict) and attachments:
        parts = ("input", "messages", "output")
        sample |= {part: _resolved(sample.get(part), attachments) for part in parts if part in sample}
    return where, sample


def _resolved(value: Any, attachments: Mapping[str, Any]) -> Any:
    """With what was kept apart put back in its place."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    if isinstance(value, list):
        return [_resolved(one, attachments) for one in value]
    if isinstance(value, dict):
        return {key: _resolved(one, attachments) for key, one in value.items()}
    return value


def _found(sample: dict[str, Any], where: str, score: str | None) -> Found:
    messages = conversation([_openai(m) for m in _list(sample, "messages", where)], "messages", where)
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    if isinstance(choice.get("message"), Mapping):
        said = conversation([_openai(choice["message"])], "output.choices", where)
        if not last_text(messages) and last_text(said):
            messages = (*messages, *said)
    error = sample.get("error")
    failure = None
    if error:
        told = error.get("message") if isinstance(error, Mapping) else error
        failure = Failure(kind="agent", detail=redact(" ".join(str(told).split()))[:200])
    stop = StopReason.LIMIT if sample.get("limit") else _STOPS.get(str(choice.get("stop_reason")), StopReason.DONE)
    seconds = sample.get("working_time")
    return Found(
        where=where,
        task=task_name(sample.get("id"), "id", where),
        messages=messages,
        reward=Reward.unscored("the attempt failed: agent") if failure else _reward(sample, score, where),
        question=_question(sample, where),
        answer=sample.get("target") or None,
        stop=stop,
        failure=failure,
        usage=_usage(sample.get("model_usage"), messages),
        latency_s=float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else 0.0,
        metadata=sample["metadata"] if isinstance(sample.get("metadata"), Mapping) else {},
    )


def _list(sample: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = sample.get(name)
    if value is not None and not isinstance(value, list):
        raise DataError(f"{where}: field {name!r} must be a list of messages, got {short(value)}")
    return value or []


def _question(sample: Mapping[str, Any], where: str) -> str:
    given = sample.get("input")
    if not isinstance(given, str):
        messages = conversation([_openai(m) for m in _list(sample, "input", where)], "input", where)
        given = "\n\n".join(message.content for message in messages if message.role == "user")
    choices = sample.get("choices")
    options = [str(one) for one in choices] if isinstance(choices, list) else []
    return "\n".join([given, *(f"{chr(ord('A') + place)}) {one}" for place, one in enumerate(options))])


def _openai(message: Any) -> Any:
    """A message of Inspect as one of OpenAI: its calls are flat, its images texts, its reasoning a part of its own."""
    if not isinstance(message, Mapping):
        return message
    made = dict(message)
    if isinstance(made.get("tool_calls"), list):
        made["tool_calls"] = [
            {"id": call.get("id"), "function": {"name": call.get("function"), "arguments": call.get("arguments")}}
            if isinstance(call, Mapping)
            else call
            for call in made["tool_calls"]
        ]
    if isinstance(made.get("content"), list):
        parts = [
            part for part in made["content"] if not (isinstance(part, Mapping) and part.get("type") == "reasoning")
        ]
        made["content"] = [
            {"type": "image_url", "image_url": part.get("image")}
            if isinstance(part, Mapping) and part.get("type") == "image"
            else part
            for part in parts
        ]
    error = made.get("error")
    if made.get("role") == "tool" and isinstance(error, Mapping) and not made.get("content"):
        made["content"] = f"error: {error.get('message', error.get('type', 'unknown'))}"
    return made


def _reward(sample: Mapping[str, Any], name: str | None, where: str) -> Reward:
    scores = sample.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        return Reward.unscored(NO_REWARD)
    name = name or next(iter(scores))
    head, _, part = (name, "", "") if name in scores else name.partition(".")
    score = scores.get(head)
    if score is None:
        raise DataError(f"{where}: no score {name!r}; the sample has {sorted(scores)[:8]} (`fields`: reward)")
    value = score.get("value") if isinstance(score, Mapping) else score
    if part:
        value = looked_up(value, part)
    explanation = score.get("explanation") if isinstance(score, Mapping) else None
    answer = score.get("answer") if isinstance(score, Mapping) else None
    if value is None or value == "N" or (isinstance(value, float) and math.isnan(value)):
        return Reward.unscored(NO_REWARD if value is None else f"the score is {value}")
    number = _number(value)
    if number is None:
        parts = f": name one of its parts {sorted(value)[:8]}" if isinstance(value, Mapping) else ""
        raise DataError(
            f"{where}: score {name!r} must be a number or one of C, I, P, N, got {short(value)}{parts} "
            "(`fields`: reward, such as SCORER or SCORER.PART)"
        )
    return Reward(
        value=number,
        extracted=answer if isinstance(answer, str) else None,
        feedback=explanation if isinstance(explanation, str) else "",
    )


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if (grade := _GRADES.get(value, _GRADES.get(value.casefold()))) is not None:
            return grade
    elif not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _usage(by_model: Any, messages: tuple[Message, ...]) -> Usage:
    records = list(by_model.values()) if isinstance(by_model, Mapping) else []
    if not records:
        return Usage(cost_usd=None)
    cached = sum(tokens(one, "input_tokens_cache_read") for one in records)
    return Usage(
        calls=sum(message.role == "assistant" for message in messages),
        input_tokens=sum(tokens(one, "input_tokens") for one in records) + cached,
        output_tokens=sum(tokens(one, "output_tokens") for one in records),
        cached_tokens=cached,
        cost_usd=None,
    )

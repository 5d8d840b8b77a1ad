"""What the readers of logs stand on: an attempt as it was found, and how attempts become tasks.

Everything in a log is data. It is read piece by piece, and no piece may be larger than `MOST_BYTES`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprior.errors import DataError
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.task import Task, content_hash

MOST_BYTES = 256_000_000  # of one line, one sample, or one file that has to be read whole
NO_REWARD = "no reward in the log"
_LONGEST_ID = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTask:
    """A task and the attempts at it that a log holds, in the order of the log.

    Attributes:
        attempts: each rollout with its reward; their indices count from 0.
    """

    task: Task
    attempts: tuple[tuple[Rollout, Reward], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One attempt as it stands in a log.

    Attributes:
        where: file and line, or file and the name of the piece.
        task: what the log calls its task.
        question: in the log's own words; empty to take the first message of the user.
        output: `None` to take the last text of the assistant.
        metadata: of the task, as far as all its attempts agree.
    """

    where: str
    task: str
    messages: tuple[Message, ...]
    reward: Reward
    question: str = ""
    answer: Any = None
    output: str | None = None
    stop: StopReason = StopReason.DONE
    failure: Failure | None = None
    usage: Usage = field(default_factory=Usage)
    latency_s: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)


def grouped(found: Iterable[Found]) -> tuple[LoggedTask, ...]:
    """The attempts by task, both in the order of the log.

    Raises:
        DataError: an attempt without a question, or attempts at one task with different questions or answers.
    """
    by_task: dict[str, list[Found]] = {}
    for one in found:
        by_task.setdefault(one.task, []).append(one)
    return tuple(_logged(name, attempts) for name, attempts in by_task.items())


def _logged(name: str, attempts: list[Found]) -> LoggedTask:
    first = attempts[0]
    for other in attempts[1:]:
        for what in ("question", "answer"):
            one, two = getattr(first, what), getattr(other, what)
            if one != two:
                raise DataError(
                    f"{other.where}: the {what} of task {name!r} is {short(two)}, but {short(one)} at {first.where}: "
                    "attempts at one task share both; name the field that tells tasks apart with `fields` (task)"
                )
    asked = first.question or next((m.content for m in first.messages if m.role == "user" and m.content.strip()), "")
    if not asked.strip():
        raise DataError(
            f"{first.where}: task {name!r} has no question and no message of a user: name the field that holds it "
            "with `fields` (question)"
        )
    # A task id stands in file names, tables and provenance: a whole question is too long for one.
    task_id = name if len(name) <= _LONGEST_ID else "t-" + content_hash(name)[:12]
    shared = {
        key: value
        for key, value in first.metadata.items()
        if all(key in other.metadata and other.metadata[key] == value for other in attempts)
    }
    task = Task(id=task_id, question=asked, answer=first.answer, metadata=shared)
    return LoggedTask(task=task, attempts=tuple(_attempt(task_id, i, one) for i, one in enumerate(attempts)))


def _attempt(task_id: str, index: int, found: Found) -> tuple[Rollout, Reward]:
    output = last_text(found.messages) if found.output is None else found.output
    rollout = Rollout(
        task_id=task_id,
        index=index,
        messages=found.messages,
        output="" if found.failure else output,
        stop=StopReason.FAILED if found.failure else found.stop,
        failure=found.failure,
        usage=found.usage,
        latency_s=found.latency_s,
        metadata={"source": found.where},
    )
    return rollout, found.reward


def last_text(messages: Iterable[Message]) -> str:
    """The last thing the assistant said in words; empty if it said nothing."""
    said = [message.content for message in messages if message.role == "assistant" and message.content.strip()]
    return said[-1] if said else ""


def looked_up(row: Any, name: str) -> Any:
    """The value of a field, `None` if there is none; the part behind a dot is looked for inside of an object."""
    while isinstance(row, Mapping):
        if name in row:
            return row[name]
        head, dot, name = name.partition(".")
        if not dot:
            return None
        row = row.get(head)
    return None


def task_name(value: Any, name: str, where: str) -> str:
    """A task's name.

    Raises:
        DataError: it is neither a text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{where}: field {name!r} must be a text or a whole number that names the task, got {short(value)} "
            "(map your field names with `fields`)"
        )
    return str(value)


def reward_from(value: Any, name: str, where: str) -> Reward:
    """A reward as a number, true or false; nothing is unscored.

    Raises:
        DataError: it is something else.
    """
    if value is None:
        return Reward.unscored(NO_REWARD)
    try:
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{where}: field {name!r} must be a finite number, true, false or null, got {short(value)} "
            "(map your field names with `fields`)"
        )
    return Reward(value=number)


def conversation(value: Any, name: str, where: str) -> tuple[Message, ...]:
    """The messages of the OpenAI chat API.

    Raises:
        DataError: it is no list of them.
    """
    if not isinstance(value, list):
        raise DataError(
            f"{where}: field {name!r} must be a list of messages, got {short(value)} (map your field names with "
            "`fields`)"
        )
    made: list[Message] = []
    for place, one in enumerate(value):
        try:
            made.append(Message.from_json(one))
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: field {name!r}, message {place}: {error}") from error
    return tuple(made)


def tokens(usage: Any, *names: str) -> int:
    """The first of some counts that stands in a record of usage; 0 if none does."""
    found = (usage.get(name) for name in names) if isinstance(usage, Mapping) else ()
    return next((max(0, int(n)) for n in found if isinstance(n, int | float) and math.isfinite(n)), 0)


def short(value: Any) -> str:
    """A value for a message: nothing, or the beginning of it."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers.

    Raises:
        DataError: the file cannot be read, or a line is too large.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_BYTES + 1):
                number += 1
                if len(line) > MOST_BYTES:
                    raise DataError(f"{path}:{number}: a line of more than {MOST_BYTES:,} bytes: expected one JSON row")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def parsed(text: bytes, where: str, *, constants: bool = False) -> Any:
    """A JSON value.

    Args:
        constants: whether NaN and Infinity are read, which JSON does not know and some tools write.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=None if constants else _no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value, write null or a text")


def whole(path: Path) -> bytes:
    """All of a file.

    Raises:
        DataError: it cannot be read, or is too large to be read at once.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{path}: one JSON value of more than {MOST_BYTES:,} bytes: expected less, or one row a line "
            "(an inspect log may be converted with `inspect log convert --to eval`)"
        )
    return content.removeprefix(b"\xef\xbb\xbf")

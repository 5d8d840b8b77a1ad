"""Rows of attempts: JSON lines in the message shape of the OpenAI chat API.

A row is one attempt, with the messages of it; or one task, with its attempts in a list under `rollouts`. Fields have
usual names, see `USUAL`; of several the first that stands in the row is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprior.errors import DataError
from tokenprior.logs.base import Found, conversation, lines, looked_up, parsed, reward_from, short, task_name
from tokenprior.rollout import Message

USUAL: dict[str, tuple[str, ...]] = {
    "task": ("task", "task_id", "metadata.task_id", "id"),
    "messages": ("messages", "trajectory"),
    "output": ("output", "solution", "completion", "text"),
    "reward": ("reward", "score"),
    "question": ("question",),
    "answer": ("answer",),
    "rollouts": ("rollouts",),
}
_OF_A_TASK = ("id", "task_id", "task", "metadata.task_id")  # where the row is a task, its id is the task's


def read(path: Path, fields: Mapping[str, str]) -> Iterator[Found]:
    """The attempts of a file of JSON lines.

    Raises:
        DataError: names the file, the line, what was got and what was expected.
    """
    named = _Names(fields)
    for number, line in lines(path):
        where = f"{path}:{number}"
        row = parsed(line, where)
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        source = f"{path.name}:{number}"
        _, attempts = named.found(row, "rollouts")
        if attempts is None:
            yield _attempt(row, row, named, where, source)
        elif isinstance(attempts, list):
            yield from _task(row, attempts, named, where, source)
        else:
            raise DataError(f"{where}: field 'rollouts' must be a list of attempts, got {short(attempts)}")
    named.require_seen(path)


class _Names:
    """Which field of a row stands for what; remembers which of the names that were given were ever found."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = fields
        self._seen: set[str] = set()
        self._rows: list[str] = []

    def found(self, row: Any, what: str, usual: Iterable[str] = ()) -> tuple[str, Any]:
        """The name that was found and its value; the likeliest name and `None` if there is none."""
        given = self.fields.get(what)
        names = [given] if given else list(usual) or list(USUAL[what])
        if isinstance(row, Mapping):
            self._rows = sorted(row)[:8]
        for name in names:
            if (value := looked_up(row, name)) is not None:
                self._seen.add(what)
                return name, value
        return names[0], None

    def require_seen(self, path: Path) -> None:
        """Raises DataError if a given name stands in no row: most likely it is written wrong."""
        for what, name in self.fields.items():
            if what not in self._seen:
                raise DataError(
                    f"{path}: fields maps {what} to {name!r}, which stands in no row; rows have {self._rows}"
                )


def _task(row: dict[str, Any], attempts: list[Any], named: _Names, where: str, source: str) -> Iterator[Found]:
    name, value = named.found(row, "task", _OF_A_TASK)
    task = task_name(value, name, where)
    for place, one in enumerate(attempts):
        if not isinstance(one, Mapping):
            raise DataError(f"{where}: attempt {place}: expected an object, got {short(one)}")
        yield _attempt(one, row, named, f"{where}, attempt {place}", source, task)


def _attempt(
    attempt: Mapping[str, Any], row: Mapping[str, Any], named: _Names, where: str, source: str, task: str | None = None
) -> Found:
    """An attempt; `row` holds what belongs to its task, and is the same object where each row is an attempt."""
    if task is None:
        name, value = named.found(row, "task")
        if value is None:
            raise DataError(
                f"{where}: no field names the task of this attempt; expected one of {', '.join(USUAL['task'])}, the "
                f"row has {sorted(row)[:8]} (name it with `fields`: task)"
            )
        task = task_name(value, name, where)
    question_name, question = named.found(row, "question")
    if question is not None and not isinstance(question, str):
        raise DataError(f"{where}: field {question_name!r} must be a text, got {short(question)}")
    reward_name, reward = named.found(attempt, "reward")
    metadata = row.get("metadata")
    return Found(
        where=source,
        task=task,
        messages=_messages(attempt, question or "", named, where),
        reward=reward_from(reward, reward_name, where),
        question=question or "",
        answer=named.found(row, "answer")[1],
        output=_output(attempt, named, where) if "output" in named.fields else None,
        metadata=metadata if isinstance(metadata, Mapping) else {},
    )


def _messages(attempt: Mapping[str, Any], question: str, named: _Names, where: str) -> tuple[Message, ...]:
    """The conversation; where the log has only its end, or keeps its end apart, the end is put to it."""
    name, value = named.found(attempt, "messages")
    if value is not None:
        messages = conversation(value, name, where)
        if messages and messages[-1].role == "assistant" and messages[-1].content.strip():
            return messages
    else:
        messages = (Message(role="user", content=question),) if question else ()
    output = _output(attempt, named, where)
    if output is None and any(message.role == "assistant" for message in messages):
        return messages  # the attempt broke off, or ended with a call
    if output is None:
        raise DataError(
            f"{where}: neither a conversation nor an output; expected one of "
            f"{', '.join((*USUAL['messages'], *USUAL['output']))}, the attempt has {sorted(attempt)[:8]} "
            "(name it with `fields`: messages or output)"
        )
    return (*messages, Message(role="assistant", content=output))


def _output(attempt: Mapping[str, Any], named: _Names, where: str) -> str | None:
    name, value = named.found(attempt, "output")
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"{where}: field {name!r} must be a text, got {short(value)} (map your field names with `fields`)"
        )
    return value

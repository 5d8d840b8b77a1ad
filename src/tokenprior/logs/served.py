"""Served requests as attempts: what a store kept of the traffic that a library stood before, with the rewards it got.

The store is read as it stands, by a connection that cannot write and keeps nobody from writing. A request counts if its
words were kept (`traffic: {keep: true}`) and somebody said how it went. With the library or held out, both are attempts
at the same task. What was masked when it was kept stays so.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokenprior.errors import DataError
from tokenprior.logs.base import Found
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, ToolCall
from tokenprior.served import Served
from tokenprior.task import content_hash
from tokenprior.text import shorten

MAGIC = b"SQLite format 3\0"  # what a store begins with

_COLUMNS = "id, library, version, held_out, share, unit, source, served_at, task, exchange, reward"
_REWARDED = f"SELECT {_COLUMNS} FROM served WHERE reward IS NOT NULL AND exchange IS NOT NULL"


def read(path: Path, fields: Mapping[str, str]) -> Iterator[Found]:
    """The rewarded attempts of a store, the first one served first.

    Args:
        fields: `library`: the name that a library is served under; all of them by default.

    Raises:
        DataError: it cannot be read, or is no store.
    """
    library = fields.get("library")
    where, given = (" AND library = ?", [library]) if library is not None else ("", [])
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(f"{_REWARDED}{where} ORDER BY served_at, id", given)
            yield from attempts(map(_served, rows))
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: {shorten(error)}: expected a store that tokenprior serve or tokenprior mcp keeps its requests in"
        ) from error


def attempts(served: Iterable[Served]) -> Iterator[Found]:
    """Served requests as attempts, in their order; those without words or reward are left out.

    Tasks of one name that ask different things are different tasks. Each attempt names its request, `served:ID`. What
    cannot be read as a conversation has failed, and says why.
    """
    asked: dict[str, str] = {}
    for one in served:
        if one.exchange is None or one.reward is None:
            continue
        found, question = _found(one, one.exchange, one.reward)
        task = one.task or f"t-{content_hash(question)[:12]}"
        if asked.setdefault(task, question) != question:
            task = f"{task}~{content_hash(question)[:6]}"
        yield replace(found, task=task, question=question)


def _found(one: Served, exchange: Mapping[str, Any], reward: Reward) -> tuple[Found, str]:
    where = f"served:{one.id}"
    try:
        messages = tuple(message for item in exchange["messages"] for message in _messages(item))
        output = str(exchange["output"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        failure = Failure(kind="unreadable", detail=shorten(error))
        return Found(where=where, task="", messages=(), reward=reward, failure=failure), one.task or one.id
    question = next((m.content for m in messages if m.role == "user" and m.content.strip()), one.task or one.id)
    ends = bool(messages) and (messages[-1].role, messages[-1].content.strip()) == ("assistant", output.strip())
    said = () if ends else (Message(role="assistant", content=output),)
    return Found(where=where, task="", messages=(*messages, *said), reward=reward, output=output), question


def _messages(item: Any) -> tuple[Message, ...]:
    """The message that an item of a conversation is: one of chat completions, or of the responses API."""
    match item.get("type") if isinstance(item, Mapping) else None:
        case "function_call":
            call = ToolCall(id=str(item["call_id"]), name=str(item["name"]), arguments=str(item["arguments"]))
            return (Message(role="assistant", content="", tool_calls=(call,)),)
        case "function_call_output":
            output = item["output"]
            said = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            return (Message(role="tool", content=said, answers=str(item["call_id"])),)
        case "reasoning" | "item_reference":
            return ()
    return (Message.from_json(item),)


def _served(row: Mapping[str, Any]) -> Served:
    """A request as far as it is an attempt."""
    return Served(
        id=row["id"],
        library=row["library"],
        version=row["version"],
        held_out=bool(row["held_out"]),
        share=row["share"],
        unit=row["unit"],
        source=row["source"],
        served_at=row["served_at"],
        task=row["task"],
        exchange=json.loads(row["exchange"]),
        reward=Reward(**json.loads(row["reward"])),
    )

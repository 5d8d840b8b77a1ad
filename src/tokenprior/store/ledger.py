"""Ledger: the calls of a run, each written down before it leaves, and found again by whoever goes on.

A call is found by its key and the hash of its request, in every run of the same name, so that a changed setting re-uses
what it did not touch. Which calls are finished is asked for once, from an index; after that the store is asked only for
a reply that it has. What another process finishes meanwhile is not seen.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from tokenprior.models.base import Reply, Request
from tokenprior.redact import own_secrets, redact
from tokenprior.rollout import Usage
from tokenprior.store import codec, schema
from tokenprior.store.shelf import Writing

_columns = schema.calls.c

# Written out once: to make a statement anew takes ten times as long as to carry it out.
_FINISHED = sa.select(_columns.key, _columns.request_hash).where(
    _columns.name == sa.bindparam("of"), _columns.state == "done"
)
_REPLY = (
    sa.select(_columns.reply)
    .where(_columns.name == sa.bindparam("of"), _columns.key == sa.bindparam("at"))
    .where(_columns.request_hash == sa.bindparam("hashed"), _columns.state == "done")
    .order_by(_columns.id)
    .limit(1)
)
_TRIES = (
    sa.select(sa.func.count())
    .where(_columns.run == sa.bindparam("in_run"), _columns.key == sa.bindparam("at"))
    .where(_columns.request_hash == sa.bindparam("hashed"))
    .scalar_subquery()
)
_SENT = schema.calls.insert().values(attempt=_TRIES)
_ENDED = schema.calls.update().where(_columns.id == sa.bindparam("call"))


class CallLedger:
    """The calls of one run; see `models.base.Ledger`.

    Attributes:
        run, name: of the run, see `Store.open_run`.
    """

    def __init__(self, writer: Writing, run: str, name: str) -> None:
        self._writer, self.run, self.name = writer, run, name
        self._finished: Hashes | None = None
        self._in_flight: dict[int, int] = {}
        self._looking = asyncio.Lock()

    async def finished_call(self, model: str, request: Request) -> Reply | None:
        at, hashed = str(request.key), request.hash_for(model)
        finished = self._finished if self._finished is not None else await self._look()
        if hash((at, hashed)) not in finished:
            return None
        wanted = {"of": self.name, "at": at, "hashed": hashed}
        found = await self._writer.run(lambda connection: connection.execute(_REPLY, wanted).scalar())
        return codec.reply_from_json(json.loads(found)) if found else None

    async def call_sent(self, model: str, request: Request, reserved: Usage) -> int:
        row = sent_row(self.run, self.name, model, request, reserved)
        call = await self._writer.run(lambda connection: note_sent(connection, row))
        self._in_flight[call] = hash((row["key"], row["request_hash"]))
        return call

    async def call_done(self, call: int, reply: Reply) -> None:
        changed = {"state": "done", "reply": codec.dumps(codec.reply_to_json(reply)), "latency_s": reply.latency_s}
        await self._end(call, reply.usage, changed)
        hashed = self._in_flight.pop(call, None)
        if hashed is not None and self._finished is not None:
            self._finished.add(hashed)

    async def call_failed(self, call: int, kind: str, detail: str, charged: Usage) -> None:
        await self._end(call, charged, {"state": "failed", "error": codec.plain(redact(f"{kind}: {detail}"))})
        self._in_flight.pop(call, None)

    def look_again(self) -> None:
        """Take it that calls were finished otherwise than by this ledger."""
        self._finished = None

    async def _end(self, call: int, used: Usage, changed: Mapping[str, Any]) -> None:
        row = {"call": call, **counts(used), **changed}
        await self._writer.run(lambda connection: connection.execute(_ENDED, row))

    async def _look(self) -> Hashes:
        """Which calls are finished."""

        def read(connection: sa.Connection) -> Hashes:
            rows = connection.execute(_FINISHED, {"of": self.name})
            return Hashes(hash((at, hashed)) for at, hashed in rows)

        async with self._looking:
            if self._finished is None:
                self._finished = await self._writer.run(read)
        return self._finished


class Hashes:
    """A set of 64-bit hashes that takes 8 bytes for each.

    Args:
        hashes: the first of them.
    """

    MOST_NEW = 4096

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._sorted = array("q", sorted(hashes))
        self._new: set[int] = set()

    def __contains__(self, hashed: int) -> bool:
        place = bisect_left(self._sorted, hashed)
        return (place < len(self._sorted) and self._sorted[place] == hashed) or hashed in self._new

    def add(self, hashed: int) -> None:
        """Add one."""
        self._new.add(hashed)
        if len(self._new) >= self.MOST_NEW:
            self._sorted = array("q", sorted([*self._sorted, *self._new]))
            self._new = set()


def sent_row(run: str, name: str, model: str, request: Request, reserved: Usage) -> dict[str, Any]:
    """A call that is about to leave, as a row for `note_sent`."""
    secrets = own_secrets()
    return {
        "run": run,
        "name": name,
        "key": str(request.key),
        "request_hash": request.hash_for(model),
        "model": redact(model, secrets),
        "state": "sent",
        "phase": request.key.phase,
        "step": request.key.step,
        "request": codec.dumps(codec.redacted(request.content(), secrets)),
        "sent_at": time.time(),
        **counts(reserved),
    }


def note_sent(connection: sa.Connection, row: Mapping[str, Any]) -> int:
    """Note within a transaction that a call is about to leave. Returns its number."""
    same = {"in_run": row["run"], "at": row["key"], "hashed": row["request_hash"]}
    inserted = connection.execute(_SENT, {**row, **same})
    return int(inserted.inserted_primary_key[0])  # type: ignore[index]  # an insert of one row has one key


def counts(usage: Usage) -> dict[str, int | float | None]:
    """A usage as the columns of a call."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cost_usd": usage.cost_usd,
    }

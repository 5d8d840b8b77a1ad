"""Batches: what a run has at providers, so that it finds it again whenever it goes on.

A batch is written down with its calls before its file leaves. So whatever is cut off, it is known which calls were on
their way together, and, by the id of the file, which of the provider's batches is theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from tokenprior.models.base import BatchedCall, CallEnd, NotedBatch, Request
from tokenprior.redact import redact
from tokenprior.rollout import Usage
from tokenprior.store import codec, schema
from tokenprior.store.ledger import counts, note_sent, sent_row
from tokenprior.store.shelf import Writing
from tokenprior.task import content_hash

MOST_READ = 500  # calls by one query: databases take only so many values


class RunBatches:
    """The batches of one run; see `models.base.BatchLedger`.

    Args:
        run, name: as of the run that is open.
        on_end: called when calls have got their replies.
    """

    def __init__(self, writer: Writing, run: str, name: str, *, on_end: Callable[[], None]) -> None:
        self._writer, self._run, self._name, self._on_end = writer, run, name, on_end

    async def batch_begun(self, model: str, calls: Sequence[tuple[Request, Usage]], *, by_program: bool) -> NotedBatch:
        rows = [sent_row(self._run, self._name, model, request, most) for request, most in calls]
        table = schema.batches

        def write(connection: sa.Connection) -> NotedBatch:
            sent = []
            for row, (_, most) in zip(rows, calls, strict=True):
                call = note_sent(connection, row)
                tries = sa.select(schema.calls.c.attempt).where(schema.calls.c.id == call)
                custom_id = _custom_id(row["key"], row["request_hash"], connection.execute(tries).scalar_one())
                sent.append(BatchedCall(call=call, custom_id=custom_id, most=most))
            last = sa.select(sa.func.coalesce(sa.func.max(table.c.number), -1)).where(table.c.run == self._run)
            noted = NotedBatch(
                number=connection.execute(last).scalar_one() + 1,
                model=redact(model),
                by_program=by_program,
                made_at=time.time(),
                file="",
                batch="",
                calls=tuple(sent),
            )
            values = {"number": noted.number, "model": noted.model, "by_program": int(by_program)}
            values |= {"made_at": noted.made_at, "file": "", "batch": ""}
            values["calls"] = codec.dumps([one.call for one in sent])
            connection.execute(table.insert().values(run=self._run, **values))
            return noted

        return await self._writer.run(write)

    async def batch_noted(self, number: int, *, file: str, batch: str) -> None:
        await self._change(number, file=file, batch=batch)

    async def batch_ended(self, number: int, ends: Mapping[int, CallEnd]) -> None:
        values = {call: _values(end) for call, end in ends.items()}

        def write(connection: sa.Connection) -> None:
            for call, changed in values.items():
                connection.execute(schema.calls.update().where(schema.calls.c.id == call).values(changed))
            connection.execute(self._of(number).values(ended_at=time.time()))

        await self._writer.run(write)
        self._on_end()

    async def batches_left(self) -> list[NotedBatch]:
        columns = schema.batches.c

        def read(connection: sa.Connection) -> list[NotedBatch]:
            left = sa.select(schema.batches).where(columns.run == self._run, columns.ended_at.is_(None))
            return [
                NotedBatch(
                    number=row.number,
                    model=row.model,
                    by_program=bool(row.by_program),
                    made_at=row.made_at,
                    file=row.file,
                    batch=row.batch,
                    calls=_calls(connection, json.loads(row.calls)),
                )
                for row in connection.execute(left.order_by(columns.number)).all()
            ]

        return await self._writer.run(read)

    async def _change(self, number: int, **values: str) -> None:
        await self._writer.run(lambda connection: connection.execute(self._of(number).values(values)))

    def _of(self, number: int) -> sa.Update:
        columns = schema.batches.c
        return schema.batches.update().where(columns.run == self._run, columns.number == number)


def _custom_id(key: str, request_hash: str, attempt: int) -> str:
    return f"{content_hash([key, request_hash])}-{attempt}"


def _calls(connection: sa.Connection, ids: Sequence[int]) -> tuple[BatchedCall, ...]:
    columns = schema.calls.c
    found: list[BatchedCall] = []
    for start in range(0, len(ids), MOST_READ):
        query = sa.select(
            columns.id, columns.key, columns.request_hash, columns.attempt, columns.input_tokens,
            columns.output_tokens, columns.cached_tokens, columns.cost_usd,
        ).where(columns.id.in_(ids[start : start + MOST_READ]))  # fmt: skip
        for row in connection.execute(query):
            most = Usage(
                calls=1,
                input_tokens=row.input_tokens,
                output_tokens=row.output_tokens,
                cached_tokens=row.cached_tokens,
                cost_usd=row.cost_usd,
            )
            custom_id = _custom_id(row.key, row.request_hash, row.attempt)
            found.append(BatchedCall(call=row.id, custom_id=custom_id, most=most))
    return tuple(found)


def _values(end: CallEnd) -> dict[str, object]:
    counted: dict[str, object] = {**counts(end.charged)}
    if end.reply is None:
        return counted | {"state": "failed", "error": codec.plain(redact(f"{end.kind}: {end.detail}"))}
    reply = codec.dumps(codec.reply_to_json(end.reply))
    return counted | {"state": "done", "reply": reply, "latency_s": end.reply.latency_s}

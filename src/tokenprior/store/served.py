"""Served requests in the store: noted many at a time, rewarded one at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from tokenprior.reward import Reward
from tokenprior.served import Served
from tokenprior.store import codec, schema
from tokenprior.store.writer import Writer


class ServedLog:
    """Where served requests are noted. Safe to use from one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def note(self, served: Sequence[Served]) -> None:
        """Keep some requests, in one transaction."""
        rows = [_row(one) for one in served]
        if rows:
            await self._writer.run(lambda connection: connection.execute(schema.served.insert(), rows))

    async def reward(self, name: str, reward: Reward) -> Served | None:
        """Give a request its reward, in place of an earlier one; `None` if there is no such request.

        Args:
            name: the id of the request, or of the endpoint's reply; of several replies of that name the newest.
        """
        columns = schema.served.c

        def write(connection: sa.Connection) -> Mapping[Any, Any] | None:
            named = sa.select(schema.served).where((columns.id == name) | (columns.reply_id == name))
            row = connection.execute(named.order_by(columns.served_at.desc()).limit(1)).first()
            if row is None:
                return None
            given = {"reward": codec.dumps(codec.reward_to_json(reward)), "rewarded_at": time.time()}
            connection.execute(schema.served.update().where(columns.id == row.id).values(given))
            return {**row._mapping, **given}

        found = await self._writer.run(write)
        return None if found is None else served_of(found)


def _row(served: Served) -> dict[str, Any]:
    exchange, reward = served.exchange, served.reward
    return asdict(served) | {
        "reply_id": served.reply_id or None,
        "held_out": int(served.held_out),
        "exchange": None if exchange is None else codec.dumps(exchange),
        "reward": None if reward is None else codec.dumps(codec.reward_to_json(reward)),
        "rewarded_at": None if reward is None else served.served_at,
    }


def served_of(row: Mapping[Any, Any]) -> Served:
    """A row of the table as a fact."""
    values = {str(key): value for key, value in row.items() if key != "rewarded_at"}
    return Served(
        **values
        | {
            "reply_id": values["reply_id"] or "",
            "held_out": bool(values["held_out"]),
            "exchange": json.loads(values["exchange"]) if values["exchange"] else None,
            "reward": codec.reward_from_json(json.loads(values["reward"])) if values["reward"] else None,
        }
    )

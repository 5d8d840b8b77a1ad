"""Served requests in the store: noted many at a time, rewarded one at a time, added up by unit.

Whatever a client or a model wrote is masked here, before it is stored, whoever hands it in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tokenprior.errors import NotFound
from tokenprior.live_effect import LiveEffect, UnitTally, live_effects
from tokenprior.private import masked
from tokenprior.redact import own_secrets, without_own_secrets
from tokenprior.reward import Reward
from tokenprior.served import Served
from tokenprior.store import codec, schema
from tokenprior.store.writer import Writer

if TYPE_CHECKING:
    from tokenprior.store.open import Store

_FIELDS = tuple(field.name for field in fields(Served))
_LONGEST_NAME = 255
_SHORT = 24  # characters

Secrets = tuple[str, ...]


class ServedLog:
    """Where served requests are noted. Safe to use from one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def note(self, served: Sequence[Served]) -> None:
        """Keep some requests, in one transaction. Their rows are made in the writer's thread: masking long texts would
        hold up whoever serves."""
        if served:

            def write(connection: sa.Connection) -> None:
                secrets = own_secrets()
                connection.execute(schema.served.insert(), [_row(one, secrets) for one in served])

            await self._writer.run(write)

    async def reward(self, name: str, reward: Reward) -> Served | None:
        """Give a request its reward, in place of an earlier one; `None` if there is no such request.

        Args:
            name: the id of the request, or of the endpoint's reply; of several replies of that name the newest.
        """
        columns = schema.served.c
        name, given = _name(name), _rewarded(reward, time.time(), own_secrets())

        def write(connection: sa.Connection) -> Mapping[Any, Any] | None:
            named = sa.select(schema.served).where((columns.id == name) | (columns.reply_id == name))
            row = connection.execute(named.order_by(columns.served_at.desc()).limit(1)).first()
            if row is None:
                return None
            connection.execute(schema.served.update().where(columns.id == row.id).values(given))
            return {**row._mapping, **given}

        found = await self._writer.run(write)
        return None if found is None else served_of(found)


def effects_in(store: Store, libraries: Sequence[str] = ()) -> tuple[LiveEffect, ...]:
    """What served libraries do, by what was recorded; see `live_effects`. Takes no lock from whoever serves.

    Args:
        libraries: the names they are served under; all by default.

    Raises:
        NotFound: nothing was served under a name; names those that there are.
    """
    columns = schema.served.c

    def read(connection: sa.Connection) -> tuple[LiveEffect, ...]:
        known = list(connection.scalars(sa.select(columns.library).distinct().order_by(columns.library)))
        if missing := [name for name in libraries if name not in known]:
            how = "tokenprior serve LIBRARY --upstream URL --holdout 0.1"
            there = f"there are: {', '.join(known)}" if known else f"nothing was recorded yet: {how}"
            raise NotFound(f"no library was served as {missing[0]!r}; {there}")
        return live_effects(_tallies(connection, libraries or known))

    return store.read(read)


def _tallies(connection: sa.Connection, libraries: Sequence[str]) -> Iterator[UnitTally]:
    columns = schema.served.c
    place = (columns.library, columns.version, columns.share, columns.held_out, columns.unit)
    went_away = columns.status == 499
    failed = (columns.status == 0) | (columns.status >= 400) & ~went_away

    def times(condition: Any) -> Any:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    told = (
        *place,
        sa.func.count().label("requests"),
        times(failed).label("failed"),
        times(went_away).label("left"),
        sa.func.count(columns.reward_value).label("rewarded"),
        sa.func.avg(columns.reward_value).label("reward"),
        sa.func.sum(columns.input_tokens).label("input_tokens"),
        sa.func.sum(columns.output_tokens).label("output_tokens"),
        sa.func.min(columns.served_at).label("first_at"),
    )
    for row in connection.execute(
        sa.select(*told).where(columns.library.in_(libraries)).group_by(*place).order_by(*place)
    ):
        values = dict(row._mapping)
        yield UnitTally(**values | {"held_out": bool(values["held_out"])})


def _row(served: Served, secrets: Secrets) -> dict[str, Any]:
    exchange = served.exchange
    return {name: getattr(served, name) for name in _FIELDS} | {
        "library": _name(served.library),
        "reply_id": _name(served.reply_id) or None,
        "model": _name(served.model),
        "task": None if served.task is None else _name(_masked(served.task, secrets)),
        "held_out": int(served.held_out),
        "exchange": None if exchange is None else codec.dumps(_masked(exchange, secrets)),
        **_rewarded(served.reward, served.served_at, secrets),
    }


def _rewarded(reward: Reward | None, at: float, secrets: Secrets) -> dict[str, Any]:
    if reward is None:
        return {"reward": None, "reward_value": None, "rewarded_at": None}
    said = replace(reward, feedback=_masked(reward.feedback, secrets))
    return {"reward": codec.dumps(codec.reward_to_json(said)), "reward_value": reward.value, "rewarded_at": at}


def _name(text: str) -> str:
    """A name that any database takes: one that it refuses would take those noted with it along."""
    return codec.plain(text)[:_LONGEST_NAME]


@lru_cache
def _known(text: str, secrets: Secrets) -> str:
    """Keys of JSON, roles and kinds, which every message has."""
    return masked(without_own_secrets(text, secrets))


def _masked(value: Any, secrets: Secrets) -> Any:
    """A JSON value without the secrets and personal data in its texts."""
    if isinstance(value, str):
        return _known(value, secrets) if len(value) <= _SHORT else masked(without_own_secrets(value, secrets))
    if isinstance(value, dict):
        return {_masked(key, secrets): _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, secrets) for item in value]
    return value


def served_of(row: Mapping[Any, Any]) -> Served:
    """A row of the table as a fact."""
    values = {str(key): value for key, value in row.items() if key not in ("reward_value", "rewarded_at")}
    return Served(
        **values
        | {
            "reply_id": values["reply_id"] or "",
            "held_out": bool(values["held_out"]),
            "exchange": json.loads(values["exchange"]) if values["exchange"] else None,
            "reward": codec.reward_from_json(json.loads(values["reward"])) if values["reward"] else None,
        }
    )

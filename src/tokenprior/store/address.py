"""Address: where a store is, a file or a PostgreSQL server, and how it is connected to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from tokenprior.errors import ConfigError, MissingExtra
from tokenprior.redact import redact
from tokenprior.text import shorten

Place = Path | sa.URL

EXPECTED = (
    "expected a file, or postgresql+psycopg://USER@HOST/DATABASE (/ : @ # ? in a password as %2F %3A %40 %23 %3F)"
)
# A connection that died without a word is noticed within about a minute.
PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}


def place_of(where: str | Path) -> Place:
    """The file or the server that a user names.

    Args:
        where: a path, or an address as SQLAlchemy has it; `postgres://` and `postgresql://` mean the driver psycopg.

    Raises:
        ConfigError: it is neither.
    """
    text = str(where)
    if "://" not in text:
        return Path(text)
    try:
        url = sa.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text))
    except (ArgumentError, ValueError):
        # What they say may quote a part of the password.
        raise ConfigError(f"store {redact(text)!r}: not an address: {EXPECTED}") from None
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database)
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"store {shown(url)!r}: {url.get_backend_name() or 'this'} is no kind of store: {EXPECTED}")
    return url


def shown(place: Place) -> str:
    """A place as it may be shown: without its password."""
    return redact(
        place.render_as_string(hide_password=True).replace(":***@", "@") if isinstance(place, sa.URL) else str(place)
    )


def writing_engine(place: Place, name: str) -> sa.Engine:
    """For one connection, that of the writer.

    Args:
        name: that the connection has on a server.

    Raises:
        ConfigError: its driver is not known or not installed.
    """
    if isinstance(place, sa.URL):
        engine = _server_engine(place, name, poolclass=NullPool, isolation_level="READ COMMITTED")
        sa.event.listen(engine, "connect", _set_up_session)
        return engine
    # The writer's thread alone uses it; other threads hand it their operations.
    engine = sa.create_engine(f"sqlite:///{place}", poolclass=StaticPool, connect_args={"check_same_thread": False})

    def set_up(connection: Any, _record: Any) -> None:
        # autocommit: transactions begin where SQLAlchemy says so, not where the driver guesses.
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    sa.event.listen(engine, "connect", set_up)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(place: Place) -> sa.Engine:
    """For connections that cannot write, and whose transactions see one moment only."""
    if isinstance(place, sa.URL):
        return _server_engine(
            place,
            "tokenprior reader",
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
        )
    engine = sa.create_engine(f"sqlite:///{place}", connect_args={"check_same_thread": False})

    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA query_only = ON")

    sa.event.listen(engine, "connect", set_up)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN DEFERRED"))
    return engine


def bare_engine(place: Place) -> sa.Engine:
    """For statements that stand outside of transactions."""
    if isinstance(place, sa.URL):
        return _server_engine(place, "tokenprior", poolclass=NullPool, isolation_level="AUTOCOMMIT")
    return sa.create_engine(f"sqlite:///{place}", isolation_level="AUTOCOMMIT", connect_args={"timeout": 30.0})


def _server_engine(url: sa.URL, name: str, **options: Any) -> sa.Engine:
    given = {key: value for key, value in PATIENCE.items() if key not in url.query}
    if url.get_driver_name() != "psycopg":
        raise ConfigError(f"store {shown(url)!r}: the driver {url.get_driver_name()} is not known: {EXPECTED}")
    try:
        engine = sa.create_engine(url, connect_args={"application_name": name, **given}, **options)
        sa.event.listen(engine, "connect", _read_sums_as_numbers)
        return engine
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "postgres", f"the store {shown(url)}") from error
    except (ArgumentError, SQLAlchemyError) as error:
        raise ConfigError(f"store {shown(url)!r}: {shorten(error, 200)}") from error


def _read_sums_as_numbers(connection: Any, _record: Any) -> None:
    """The sum of large integers is `numeric`, which the driver would read as a `Decimal`; we have no others."""
    from psycopg.adapt import Loader

    class Whole(Loader):
        def load(self, data: Any) -> int:
            return int(bytes(data))

    connection.adapters.register_loader("numeric", Whole)


def _set_up_session(connection: Any, _record: Any) -> None:
    """A commit that was answered is kept, whatever the server does for others; and the server notices as soon as we do
    that the other end is gone, for it holds the locks of a writer until then."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        for name in ("keepalives_idle", "keepalives_interval", "keepalives_count"):
            cursor.execute("SELECT set_config(%s, %s, false)", (f"tcp_{name}", str(PATIENCE[name])))
    connection.commit()

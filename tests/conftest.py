"""What every test shares: the asyncio backend, no network beyond loopback, and a PostgreSQL server."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer, binaries


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of a process."""
    if binaries() is None:
        pytest.skip("no PostgreSQL server is installed here (Debian: apt-get install postgresql)")
    with PostgresServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that would leave this machine is a mistake of the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            host = str(address[0]) if isinstance(address, tuple) else str(address)
            assert host.startswith("127.") or host in ("::1", "localhost"), f"a test connects to {host}"
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)

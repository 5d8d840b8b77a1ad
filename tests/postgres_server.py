"""A PostgreSQL server of our own, from Debian's packages: started in a folder of its own, ended by its own process.

In a test: the fixture `postgres` (one server for a test process) and `postgres.store()`, the address of a new place for
a store. As a program: `python tests/postgres_server.py` prints the address of one and stays until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "pass/w?rd#of:tests@home"  # with all that has a meaning in an address
STARTS_WITHIN_S = 60.0


def binaries() -> Path | None:
    """Where the newest server is; `None` if there is none."""
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True):
        return found.parent
    here = shutil.which("postgres")
    return Path(here).parent if here else None


class PostgresServer:
    """The server. It listens at a socket in its own folder and nowhere else.

    Raises:
        RuntimeError: there is no such program here.
    """

    def __init__(self) -> None:
        found = binaries()
        if found is None:
            raise RuntimeError("no PostgreSQL server is installed here")
        self._bin = found
        # Not a folder of pytest's, which nobody else may enter: the server refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="tokenprior-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, cwd=self.folder, capture_output=True, **self._as)

    def __enter__(self) -> PostgresServer:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = ("-D", self.folder / "data", "-U", "tokenprior", f"--pwfile={secret}", "-A", "scram-sha-256")
        # A collation of people, so that what depends on order would show.
        self._run(
            self._bin / "initdb",
            *data,
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--icu-locale=en",
            "--locale-provider=icu",
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # the machine does not go down in a test
            "max_connections": "60",
            "shared_buffers": "32MB",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            command = [self._bin / "postgres", "-D", self.folder / "data", *given]
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self._as)
        import psycopg  # tests that need no server do without it

        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                psycopg.connect(self._dsn()).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: `SIGINT` throws its clients out (`fast`), `SIGQUIT` is as if it had crashed (`immediate`)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def restart(self, how: signal.Signals) -> None:
        self.stop(how)
        self.start()

    def _dsn(self, options: str = "") -> str:
        return f"host={self.folder} user=tokenprior password='{PASSWORD}' dbname=postgres options='{options}'"

    def execute(self, statement: str, store: str = "") -> list[tuple[Any, ...]]:
        """Carry out one statement as the owner of it all; its rows, if it has any.

        Args:
            store: the address of one, whose tables are then meant.
        """
        import psycopg

        options = f"-csearch_path={self.schema(store)}" if store else ""
        with psycopg.connect(self._dsn(options), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return list(cursor) if cursor.description else []

    def store(self) -> str:
        """The address of a new and empty place: a schema, which is made in no time, of a database."""
        self._made += 1
        self.execute(f"CREATE SCHEMA s{self._made}")
        return f"{self.address('postgres')}&options=-csearch_path%3Ds{self._made}"

    def schema(self, store: str) -> str:
        """What the place of a store is called."""
        return store.rpartition("%3D")[2]

    def address(self, database: str) -> str:
        user = f"tokenprior:{quote(PASSWORD, safe='')}"
        return f"postgresql+psycopg://{user}@/{database}?host={quote(str(self.folder), safe='')}"


if __name__ == "__main__":
    with PostgresServer() as server:
        print(server.store(), flush=True)  # noqa: T201 (this is how it speaks)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()

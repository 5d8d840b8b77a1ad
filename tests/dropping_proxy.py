"""Stands before a PostgreSQL server and cuts a connection at a commit, as a network does at the worst moment.

`before`: the server never hears of the commit. `after`: it has committed, but nobody hears of that. `ghost`: as
`before`, and for the server the session is still there, with all its locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from postgres_server import PostgresServer

Cut = Literal["before", "after", "ghost"]

SOCKET = ".s.PGSQL.5432"
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class DroppingProxy:
    """The proxy, in a thread of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._folder = tempfile.TemporaryDirectory(prefix="tokenprior-proxy-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.next_cut: Cut | None = None
        self.cuts = 0

    def __enter__(self) -> DroppingProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._folder.cleanup()

    def through(self, address: str) -> str:
        """The address of a database by way of the proxy."""
        return address.replace(quote(str(self._server.folder), safe=""), quote(self._folder.name, safe=""))

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._accept, Path(self._folder.name) / SOCKET)
        async with server:
            self._ready.set()
            await self._closing.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await self._pass_on(reader, writer)
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, out = await asyncio.open_unix_connection(self._server.folder / SOCKET)
        answers = asyncio.create_task(_copy(behind, writer))
        cut: Cut | None = None
        try:
            while data := await reader.read(65536):
                if self.next_cut and COMMIT in data:
                    cut, self.next_cut = self.next_cut, None
                    self.cuts += 1
                    break
                out.write(data)
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            if cut == "after":
                out.write(data)
                assert await behind.read(65536)
            writer.close()
            while cut == "ghost" and await behind.read(65536):  # until the server ends the session
                pass
        finally:
            answers.cancel()
            writer.close()
            out.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()

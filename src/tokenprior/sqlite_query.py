"""One query on a SQLite database that it cannot change, in a process of its own.

Order of events: `Database.of` finds the file for a task; `run_query` starts a process, which opens the file read-only,
runs one statement under limits, and writes the rows back as one line of JSON; then it ends.

What is covered: the file is opened read-only and unlocked (`immutable`), and only reading is authorised: no write, no
ATTACH, no PRAGMA but those that describe tables, no extension, one statement. Time is bounded inside SQLite, by an
alarm a second later, by CPU seconds, and by the parent, who kills at the latest 30 seconds later. Memory is bounded by
SQLite's heap limit and by the address space, a value by its length, a result by its rows and bytes. The process may
write no file, and gets no environment that could hold a key.

What is not: the process has the rights of this user, so a hole in SQLite itself is not contained. Where there is no
module `resource` (Windows) the bounds of SQLite and the parent's kill are all there is. A database in WAL mode is read
as it was at its last checkpoint. `random()` gives what it likes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprior.errors import ConfigError, DataError
from tokenprior.task import Task, content_hash

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Cell = str | int | float | bytes | None

SIZE = 4  # processes at one time
MAX_COUNTED = 100_000
MAX_RESULT_BYTES = 16 << 20
MAX_VALUE_BYTES = 1 << 20
HEAP_BYTES = 256 << 20
MEMORY_BYTES = 1 << 30
START_TIMEOUT_S = 30.0
_HASHED_BYTES = 16 << 20  # beyond this a file is known by its size and time
_FIELD = re.compile(r"\{(\w+)\}")
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tokenprior.sqlite_query import work; work()"
_DESCRIBING = ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list")
_FORBIDDEN_FUNCTIONS = ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer")
_CLOCKS = ("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff")


class QueryFailed(Exception):
    """The query is wrong, not allowed, or takes too much; the text says which. Never leaves its caller."""


class QueryLost(Exception):
    """The query was not run, through no fault of its own. Never leaves its caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a query gave.

    Attributes:
        columns: their names, as SQLite gives them.
        rows: the first of them.
        count: how many there are.
        is_counted: whether counting came to an end; if not, there are more than `count`.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    count: int
    is_counted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the database of a task is.

    Attributes:
        template: a path; `{field}` stands for a field of the task's metadata, a text or a whole number.
        folder: what a relative template starts from. No field leads out of it; for an absolute template, not out of
            the folder that its part before the first field names.
        now: the time that SQL takes for now, such as `2025-01-30 12:00:00`; empty for the clock.

    Raises:
        ConfigError: the template is empty or has braces that are no field, or `now` is no time to SQLite.
    """

    template: str
    folder: Path
    now: str = ""
    _content: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.template.strip() or set(_FIELD.sub("", self.template)) & set("{}"):
            raise ConfigError(f"sql: database is {self.template!r}, expected a path such as data/{{db_name}}.sqlite")
        if self.now:
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                if (
                    connection.execute("SELECT datetime(?)", (self.now,)).fetchone()[0] is None
                    or "now" in self.now.lower()
                ):
                    raise ConfigError(f"sql: now is {self.now!r}, expected a time such as 2025-01-30 12:00:00")
        # Taken now: databases that change during a run do not change what the run is called.
        object.__setattr__(self, "_content", self._hash_files())

    @property
    def fingerprint(self) -> str:
        """A hash of the template, the time, and the content of the files that the template can name."""
        return content_hash([self.template, self.now, self._content])

    @property
    def _root(self) -> Path:
        fixed = _FIELD.split(self.template)[0]
        is_absolute = Path(self.template).is_absolute()
        return Path(os.path.abspath(os.path.dirname(fixed) if is_absolute else self.folder))

    def of(self, task: Task) -> Path:
        """The file for a task.

        Raises:
            DataError: in one line: a field is missing or no text, it leads out of the folder, or there is no file.
        """

        def value(match: re.Match[str]) -> str:
            found = task.metadata.get(match[1])
            if isinstance(found, bool) or not isinstance(found, str | int) or "\0" in str(found) or found == "":
                got = "nothing" if found is None else repr(found)[:40]
                raise DataError(
                    f"task {task.id!r}: metadata.{match[1]} must name its database (database: {self.template}), "
                    f"got {got}; the task has {sorted(task.metadata)[:8]}"
                )
            return str(found)

        # Not resolved: a link that the user laid is the user's, a way out through a field is not.
        path = Path(os.path.abspath(self.folder / _FIELD.sub(value, self.template)))
        if not path.is_relative_to(self._root):
            raise DataError(f"task {task.id!r}: its database {str(path)!r:.120} is not inside {self._root}")
        try:
            if path.is_file():
                return path
        except OSError:  # a name that is too long, a folder that may not be read
            pass
        raise DataError(f"task {task.id!r}: no database {str(path)!r:.200}")

    def _hash_files(self) -> str:
        pattern = _FIELD.sub("{}", str(self.folder / self.template))
        stamps: list[Any] = []
        for name in sorted(glob("*".join(escape(part) for part in pattern.split("{}")))):
            path = Path(name)
            if path.is_file():
                known = path.stat()
                content = path.read_bytes() if known.st_size <= _HASHED_BYTES else b""
                stamps.append(
                    [path.name, hashlib.sha256(content).hexdigest()]
                    if content
                    else [path.name, known.st_size, known.st_mtime]
                )
        return content_hash(stamps)


async def run_query(path: Path, query: str, *, now: str = "", keep: int, timeout_s: float) -> Rows:
    """The result of one query.

    Args:
        path: the database.
        query: one statement of SQLite's SQL.
        now: the time that it takes for now; empty for the clock.
        keep: how many rows are brought back; the others are counted up to 100,000.
        timeout_s: seconds that the query may take; above 0.

    Raises:
        QueryFailed: in words for whoever wrote the query.
        QueryLost: the process could not be started or was killed from outside.
    """
    import asyncio  # here, for the child does without: it takes longer to load than most queries to run

    job = _Job({"path": str(path), "query": query, "now": now, "keep": keep, "timeout_s": timeout_s})
    try:
        reply = await asyncio.wrap_future(_threads().submit(job.run))
    except asyncio.CancelledError:
        job.end()
        raise
    if "lost" in reply:
        raise QueryLost(reply["lost"])
    if "error" in reply:
        raise QueryFailed(reply["error"])
    rows = tuple(tuple(bytes.fromhex(c["hex"]) if isinstance(c, dict) else c for c in row) for row in reply["rows"])
    return Rows(columns=tuple(reply["columns"]), rows=rows, count=reply["count"], is_counted=reply["is_counted"])


@cache
def _threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(SIZE, thread_name_prefix="tokenprior-sql")


class _Job:
    """The parent's side of one query. `end` may come from any thread."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def run(self) -> dict[str, Any]:
        timeout_s = self._request["timeout_s"]
        too_long = {"error": f"it took longer than {timeout_s:g} s"}
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ} | {"TZ": "UTC"}
        with self._lock:
            if self._ended:
                return {"lost": "given up"}
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
            except OSError as error:
                return {"lost": f"no process for the query: {error.strerror}"}
        with self._process as process:
            try:
                output, _ = process.communicate(
                    json.dumps(self._request).encode("ascii"), timeout=START_TIMEOUT_S + timeout_s
                )
            except subprocess.TimeoutExpired:
                process.kill()
                return too_long
        if output.endswith(b"\n"):
            reply: dict[str, Any] = json.loads(output)
            return reply
        if -process.returncode in (getattr(signal, "SIGALRM", 0), getattr(signal, "SIGXCPU", 0)):
            return too_long
        return {"lost": f"the process of the query died ({process.returncode})"}


def work() -> None:
    """The child's side: one request from the input, one line of output."""
    request = json.loads(sys.stdin.buffer.read())
    _bind(request["timeout_s"])
    try:
        reply = _answer(request)
    except _Refused as error:
        reply = {"error": str(error)}
    except MemoryError:
        reply = {"error": "it takes more memory than it may"}
    # sqlite3.Warning: two statements, up to Python 3.11. ValueError: a null character, or no UTF-8.
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        reply = {"error": " ".join(str(error).split())[:300]}
    sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")


class _Refused(Exception):
    """A query over its bounds."""


def _bind(timeout_s: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)  # for a single function that does not come back
    with contextlib.suppress(ImportError):
        import resource

        seconds = math.ceil(timeout_s) + 2
        for what, limit in (
            (resource.RLIMIT_AS, MEMORY_BYTES),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (limit, limit))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    refused: list[str] = []
    with contextlib.closing(_connection(request, refused)) as connection:
        try:
            cursor = connection.execute(request["query"])
            if cursor.description is None:
                raise _Refused("there is no SELECT in it")
            columns = [name for name, *_ in cursor.description]
            return {"columns": columns} | _fetched(cursor, request["keep"])
        except sqlite3.DatabaseError as error:
            if refused:
                raise _Refused(f"only a SELECT is allowed, nothing can be changed; refused: {refused[0]}") from error
            if str(error) == "interrupted":
                raise _Refused(f"it took longer than {request['timeout_s']:g} s") from error
            raise


def _connection(request: Mapping[str, Any], refused: list[str]) -> sqlite3.Connection:
    uri = Path(os.path.abspath(request["path"])).as_uri() + "?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    for pragma in ("query_only=1", "temp_store=MEMORY", f"hard_heap_limit={HEAP_BYTES}", "trusted_schema=0"):
        connection.execute(f"PRAGMA {pragma}")
    for category, limit in (
        (sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (sqlite3.SQLITE_LIMIT_COLUMN, 500),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(category, limit)
    # A table-valued function is declared at its first use, by a statement that would be refused later.
    for name in (*(f"pragma_{name}" for name in _DESCRIBING), "json_each", "json_tree"):
        with contextlib.suppress(sqlite3.Error):
            connection.execute(f"SELECT 1 FROM {name}('1') LIMIT 0").close()
    if request["now"]:
        _stop_clock(connection, request["now"])
    deadline = time.monotonic() + request["timeout_s"]
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    connection.set_authorizer(_authorizer(refused))
    return connection


def _authorizer(refused: list[str]) -> Any:
    names = {
        code: name.removeprefix("SQLITE_").replace("_", " ")
        for name, code in vars(sqlite3).items()
        if re.match(r"SQLITE_(CREATE|DROP|ALTER|INSERT|UPDATE|DELETE|ATTACH|DETACH|PRAGMA|TRANSACTION|SAVEPOINT)", name)
    }
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in allowed:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _DESCRIBING:
            return sqlite3.SQLITE_OK
        subject = second if action == sqlite3.SQLITE_FUNCTION else names.get(action, "this statement")
        refused.append(f"{subject} {first}" if action == sqlite3.SQLITE_PRAGMA else str(subject))
        return sqlite3.SQLITE_DENY

    return authorize


def _stop_clock(connection: sqlite3.Connection, now: str) -> None:
    """Give the functions that know the time one that stands still."""
    inner = sqlite3.connect(":memory:")

    def stopped(name: str) -> Any:
        def function(*args: Cell) -> Cell:
            times = [now if isinstance(arg, str) and arg.strip().lower() == "now" else arg for arg in args]
            if len(times) == (1 if name == "strftime" else 0):
                times.append(now)
            cell: Cell = inner.execute(f"SELECT {name}({', '.join('?' * len(times))})", times).fetchone()[0]
            return cell

        return function

    for name in _CLOCKS:
        connection.create_function(name, -1, stopped(name), deterministic=True)
    for name, kind in (("current_date", "date"), ("current_time", "time"), ("current_timestamp", "datetime")):
        connection.create_function(name, 0, stopped(kind), deterministic=True)


def _fetched(cursor: sqlite3.Cursor, keep: int) -> dict[str, Any]:
    rows: list[list[Any]] = []
    count = size = 0
    for row in cursor:
        if count == MAX_COUNTED:
            return {"rows": rows, "count": count, "is_counted": False}
        count += 1
        if count <= keep:
            size += sum(8 + len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
            if size > MAX_RESULT_BYTES:
                raise _Refused(f"its result is larger than {MAX_RESULT_BYTES >> 20} MB")
            rows.append([{"hex": cell.hex()} if isinstance(cell, bytes) else cell for cell in row])
    return {"rows": rows, "count": count, "is_counted": True}

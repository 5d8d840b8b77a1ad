"""SQL: an agent looks things up in the SQLite database of its task.

Every call is one query on a database that nothing can change; what bounds it is written in `sqlite_query`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.sqlite_query import Cell, Database, QueryFailed, QueryLost, Rows, run_query
from tokenprior.task import Task, content_hash
from tokenprior.tools.base import ToolFailed, ToolSession, ToolSpec

RULE = 1
MAX_CELL_CHARS = 200
MAX_COLUMNS_SHOWN = 2_000  # of all tables together, where the tables are asked for
COLUMNS_QUERY = """
SELECT m.name, p.name, p.type FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS p
WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY m.rowid, p.cid
"""
_DESCRIPTION = (
    "Run one SQLite SELECT on the database and get its rows. An empty query shows the tables and their columns."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlTool:
    """A tool `sql` with one argument, `query`.

    Attributes:
        database: the path of a task's database; `{field}` stands for a field of the task's metadata, as in
            `databases/{db_name}.sqlite`.
        folder: what a relative path starts from and may not leave.
        now: the time that SQL takes for now, such as `2025-01-30 12:00:00`; empty for the clock.
        max_rows: rows that are shown; 1 or more. How many more there are is said.
        max_chars: length of a result; 100 or more. A cut is said.
        timeout_s: seconds that one query may take; above 0.

    Raises:
        ConfigError: a setting is wrong.
    """

    database: str
    folder: str | Path = "."
    now: str = ""
    max_rows: int = 30
    max_chars: int = 4000
    timeout_s: float = 5.0
    _database: Database = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, least in (("max_rows", self.max_rows, 1), ("max_chars", self.max_chars, 100)):
            if value < least:
                raise ConfigError(f"tool sql: {name} is {value!r}, expected {least} or more")
        if not self.timeout_s > 0:
            raise ConfigError(f"tool sql: timeout_s is {self.timeout_s!r}, expected more than 0")
        where = Database(template=self.database, folder=Path(self.folder), now=self.now)
        object.__setattr__(self, "_database", where)

    @property
    def spec(self) -> ToolSpec:
        query = {"type": "string", "description": "one SELECT, or nothing to see the tables"}
        parameters = {"type": "object", "properties": {"query": query}, "required": ["query"]}
        return ToolSpec(name="sql", description=_DESCRIPTION, parameters=parameters)

    @property
    def fingerprint(self) -> str:
        """Covers the content of the databases as well."""
        return content_hash(["sql tool", RULE, self._database.fingerprint, self.max_rows, self.max_chars])

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """Nothing is open between calls.

        Raises:
            DataError: the task names no database that there is; see `Database.of`.
        """
        return nullcontext(_Session(self, self._database.of(task)))


class _Session:
    def __init__(self, tool: SqlTool, path: Path) -> None:
        self._tool, self._path = tool, path

    async def call(self, arguments: Mapping[str, Any]) -> str:
        query = str(arguments.get("query") or "").strip()
        tool = self._tool
        try:
            if not query:
                found = await self._run(COLUMNS_QUERY, MAX_COLUMNS_SHOWN)
                return _cut(schema_text(found.rows), found, len(found.rows), tool.max_chars)
            return as_table(await self._run(query, tool.max_rows), max_chars=tool.max_chars)
        except QueryFailed as error:
            is_lost = str(error).startswith(("no such table", "no such column"))
            hint = " An empty query shows the tables and their columns." if is_lost else ""
            raise ToolFailed(f"The query failed: {error}.{hint}") from error
        except QueryLost as error:
            raise ToolFailed(f"The query was not run: {error}.") from error

    async def _run(self, query: str, keep: int) -> Rows:
        tool = self._tool
        return await run_query(self._path, query, now=tool.now, keep=keep, timeout_s=tool.timeout_s)


def schema_text(columns: Iterable[tuple[Cell, ...]]) -> str:
    """Tables as short `CREATE TABLE` lines, from rows of table, column and type."""
    tables: dict[str, list[str]] = {}
    for table, column, kind in columns:
        short = str(kind).partition("(")[0]  # lengths change nothing in SQLite
        tables.setdefault(_name(str(table)), []).append(f"{_name(str(column))} {short}".strip())
    return "\n".join(f"CREATE TABLE {table}({', '.join(names)})" for table, names in tables.items()) or "(no tables)"


def as_table(found: Rows, *, max_chars: int) -> str:
    """Rows as lines with bars between the cells, under a line of column names."""
    if not found.count:
        return "(no rows)"
    lines = [" | ".join(_on_one_line(name) for name in found.columns)]
    size = len(lines[0])
    for row in found.rows:
        line = " | ".join(_shown(cell) for cell in row)
        size += len(line) + 1
        if size > max_chars and len(lines) > 1:
            break
        lines.append(line)
    return _cut("\n".join(lines), found, len(lines) - 1, max_chars)


def _cut(text: str, found: Rows, shown: int, max_chars: int) -> str:
    if len(text) > max_chars:
        text = text[:max_chars] + "\n... (cut)"
    more = found.count - shown
    if more or not found.is_counted:
        text += f"\n... {'' if found.is_counted else 'more than '}{more} more row{'s' if more != 1 else ''}"
    return text


def _name(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else '"' + name.replace('"', '""') + '"'


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "NULL"
        case bytes():
            text = f"x'{cell[:MAX_CELL_CHARS].hex()}'"
        case str():
            text = _on_one_line(cell[: MAX_CELL_CHARS + 1])
        case _:
            text = json.dumps(cell)
    return text if len(text) <= MAX_CELL_CHARS else text[:MAX_CELL_CHARS] + "…"


def _on_one_line(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")

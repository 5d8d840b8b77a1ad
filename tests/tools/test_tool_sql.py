"""The tool `sql`: nothing a model writes changes a database, leaves it, or runs for ever. Processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import ConfigError, DataError
from tokenprior.sqlite_query import Database, QueryFailed, QueryLost, run_query
from tokenprior.task import Task
from tokenprior.tools.base import Tool, ToolFailed
from tokenprior.tools.sql import SqlTool

EXAMPLES = Path(__file__).parents[2] / "examples/sql"
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(tmp_path / "pets.sqlite")) as connection:
        connection.execute('CREATE TABLE pets(id INTEGER PRIMARY KEY, name VARCHAR(20), "born on" DATE, photo BLOB)')
        rows = [(1, "Ada", "2020-01-02", b"\x00\xff"), (2, "Bo | B", None, None), (3, "two\nlines", "2024-05-06", None)]
        connection.executemany("INSERT INTO pets VALUES (?, ?, ?, ?)", rows)
        connection.execute("CREATE VIEW named AS SELECT name FROM pets")
        connection.commit()
    return tmp_path


def task(**metadata: Any) -> Task:
    return Task(id="t1", question="q", metadata=metadata)


async def ask(tool: Tool, query: str, of: Task | None = None) -> str:
    async with tool.session(of or task()) as session:
        return await session.call({"query": query})


@pytest.mark.anyio
async def test_rows_come_as_a_table_that_a_model_can_read(pets: Path) -> None:
    tool = SqlTool(database="pets.sqlite", folder=pets)
    assert await ask(tool, "SELECT * FROM pets ORDER BY id") == (
        "id | name | born on | photo\n"
        "1 | Ada | 2020-01-02 | x'00ff'\n"
        "2 | Bo | B | NULL | NULL\n"
        "3 | two\\nlines | 2024-05-06 | NULL"
    )
    assert await ask(tool, "SELECT name FROM pets WHERE 0") == "(no rows)"
    assert await ask(tool, "SELECT 1.5, 2, 9e999; -- done") == "1.5 | 2 | 9e999\n1.5 | 2 | Infinity"


@pytest.mark.anyio
async def test_an_empty_query_shows_the_tables(pets: Path) -> None:
    shown = 'CREATE TABLE pets(id INTEGER, name VARCHAR, "born on" DATE, photo BLOB)\nCREATE TABLE named(name VARCHAR)'
    tool = SqlTool(database="pets.sqlite", folder=pets)
    assert await ask(tool, "") == await ask(tool, "  \n") == shown
    assert "CREATE VIEW named" in await ask(tool, "SELECT sql FROM sqlite_schema")
    assert "born on | DATE" in await ask(tool, "SELECT name, type FROM pragma_table_info('pets')")
    assert "born on | DATE" in await ask(tool, "PRAGMA table_info(pets)")


@pytest.mark.anyio
async def test_what_is_cut_is_said(pets: Path) -> None:
    tool = SqlTool(database="pets.sqlite", folder=pets, max_rows=2)
    assert (await ask(tool, "SELECT id FROM pets")).endswith("\n2\n... 1 more row")
    counted = await ask(tool, f"{ENDLESS} SELECT x FROM n LIMIT 5000")
    assert counted == "x\n1\n2\n... 4998 more rows"
    assert (await ask(tool, f"{ENDLESS} SELECT x FROM n")).endswith("\n2\n... more than 99998 more rows")
    short = SqlTool(database="pets.sqlite", folder=pets, max_chars=100)
    text = await ask(short, f"{ENDLESS} SELECT hex(zeroblob(10)) AS h FROM n LIMIT 9")
    assert text == "h\n" + "\n".join(["0" * 20] * 4) + "\n... 5 more rows"
    text = await ask(short, "SELECT hex(zeroblob(5000)), hex(zeroblob(5000))")
    assert len(text) < 130
    assert text.endswith("\n... (cut)")


@pytest.mark.anyio
async def test_a_long_cell_is_cut(pets: Path) -> None:
    text = await ask(SqlTool(database="pets.sqlite", folder=pets), "SELECT hex(zeroblob(5000)) AS h")
    assert text == "h\n" + "0" * 200 + "…"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT nope FROM pets", "no such column: nope. An empty query shows the tables"),
        ("SELECT * FROM nope", "no such table: nope. An empty query shows the tables"),
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("-- nothing", "there is no SELECT in it"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT 1; DROP TABLE pets", "one statement at a time"),
        ("SELECT ?", "bindings"),
        ("SELECT '\ud800'", "surrogates not allowed"),
        ("SELECT 1\0", "null character"),
        ("INSERT INTO pets(name) VALUES ('x')", "refused: INSERT"),
        ("REPLACE INTO pets(id) VALUES (1)", "refused: INSERT"),
        ("UPDATE pets SET name = 'x'", "refused: UPDATE"),
        ("DELETE FROM pets", "refused: DELETE"),
        ("WITH a AS (SELECT 1) DELETE FROM pets", "refused: DELETE"),
        ("DROP TABLE pets", "nothing can be changed"),
        ("ALTER TABLE pets RENAME TO cats", "refused: ALTER TABLE"),
        ("CREATE TABLE x AS SELECT 1", "nothing can be changed"),
        ("CREATE TEMP TABLE x(a)", "nothing can be changed"),
        ("CREATE VIRTUAL TABLE x USING fts5(a)", "nothing can be changed"),
        ("BEGIN EXCLUSIVE", "refused: TRANSACTION"),
        ("SAVEPOINT x", "refused: SAVEPOINT"),
        ("ATTACH '{folder}/new.sqlite' AS x", "refused: ATTACH"),
        ("VACUUM INTO '{folder}/new.sqlite'", "refused: ATTACH"),
        ("VACUUM", "nothing can be changed"),
        ("REINDEX", "there is no SELECT in it"),
        ("ANALYZE", "nothing can be changed"),
        ("PRAGMA writable_schema = 1", "refused: PRAGMA writable_schema"),
        ("PRAGMA query_only = 0", "refused: PRAGMA query_only"),
        ("PRAGMA hard_heap_limit = 0", "refused: PRAGMA hard_heap_limit"),
        ("SELECT * FROM pragma_database_list", "nothing can be changed"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT writefile('{folder}/new.sqlite', 'x')", "writefile"),
        ("SELECT readfile('/etc/passwd')", "readfile"),
        ("SELECT zeroblob(1000000000)", "too big"),
        ("SELECT hex(randomblob(1000000))", "too big"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "overflow"),
        ("SELECT '" + "x" * 200_000 + "'", "too large"),
    ],
)
async def test_a_query_that_is_wrong_or_hostile_is_answered_with_words(pets: Path, query: str, words: str) -> None:
    tool = SqlTool(database="pets.sqlite", folder=pets)
    before = hashlib.sha256((pets / "pets.sqlite").read_bytes()).hexdigest()
    with pytest.raises(ToolFailed) as error:
        await ask(tool, query.replace("{folder}", str(pets)))
    assert str(error.value).startswith("The query failed: ")
    assert words in str(error.value)
    assert str(pets) not in str(error.value)
    assert hashlib.sha256((pets / "pets.sqlite").read_bytes()).hexdigest() == before
    assert os.listdir(pets) == ["pets.sqlite"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        f"{ENDLESS} SELECT count(*) FROM n",
        f"{ENDLESS} SELECT max(length(hex(zeroblob(400000)))) FROM n",
        # one call of a function, which nobody can interrupt but by killing
        "SELECT instr(replace(hex(zeroblob(500000)), '0', 'a'), replace(hex(zeroblob(250000)), '0', 'a') || 'b')",
    ],
)
async def test_a_query_without_end_is_stopped(pets: Path, query: str) -> None:
    started = time.monotonic()
    with pytest.raises(ToolFailed, match=r"took longer than 0\.5 s"):
        await ask(SqlTool(database="pets.sqlite", folder=pets, timeout_s=0.5), query)
    assert time.monotonic() - started < 5


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        f"{ENDLESS} SELECT x, hex(zeroblob(1000)) AS h FROM n ORDER BY h, x DESC",
        f"{ENDLESS} SELECT hex(zeroblob(100000)) FROM n",
    ],
)
async def test_memory_is_bounded(pets: Path, query: str) -> None:
    with pytest.raises(QueryFailed, match=r"more memory than it may|larger than 16 MB"):
        await run_query(pets / "pets.sqlite", query, keep=10_000_000, timeout_s=20)


@pytest.mark.anyio
async def test_a_call_that_is_given_up_ends_its_process(pets: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ask(SqlTool(database="pets.sqlite", folder=pets, timeout_s=60), f"{ENDLESS} SELECT count(*) FROM n")
    # Four at a time: these wait for nobody if the one above is gone.
    await asyncio.gather(*(run_query(pets / "pets.sqlite", "SELECT 1", keep=1, timeout_s=5) for _ in range(8)))
    assert time.monotonic() - started < 10


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("no database at all, but a text that is long enough to be looked at" * 20)
    with pytest.raises(ToolFailed, match="file is not a database"):
        await ask(SqlTool(database="x.sqlite", folder=tmp_path), "SELECT 1 FROM sqlite_schema")


@pytest.mark.anyio
async def test_no_process_is_said_apart_from_a_wrong_query(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(pets / "nothing"))
    with pytest.raises(QueryLost, match="no process"):
        await run_query(pets / "pets.sqlite", "SELECT 1", keep=1, timeout_s=5)
    with pytest.raises(ToolFailed, match="was not run"):
        await ask(SqlTool(database="pets.sqlite", folder=pets), "SELECT 1")


@pytest.mark.anyio
async def test_the_clock_can_stand_still(pets: Path) -> None:
    tool = SqlTool(database="pets.sqlite", folder=pets, now="2025-01-30 12:00:00")
    for expression, value in [
        ("date('now')", "2025-01-30"),
        ("date()", "2025-01-30"),
        ("datetime('NOW', '-30 days')", "2024-12-31 12:00:00"),
        ("strftime('%Y-%m', 'now')", "2025-01"),
        ("strftime('%H')", "12"),
        ("current_date", "2025-01-30"),
        ("CURRENT_TIMESTAMP", "2025-01-30 12:00:00"),
        ("CURRENT_TIME", "12:00:00"),
        ("julianday('now') - julianday('2025-01-29 12:00:00')", "1.0"),
        ("date('2020-02-30', 'start of month')", "2020-02-01"),
        ("date('no time')", "NULL"),
        ("date(NULL)", "NULL"),
    ]:
        assert (await ask(tool, f"SELECT {expression} AS x")) == f"x\n{value}"
    moving = SqlTool(database="pets.sqlite", folder=pets)
    assert (await ask(moving, "SELECT date('now') > '2025-06-01' AS x")) == "x\n1"


def test_a_path_with_odd_letters_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "50% of? #1 [é]"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "a b.sqlite")) as connection:
        connection.execute("CREATE TABLE t(a)")
    tool = SqlTool(database="{name}.sqlite", folder=folder)
    assert asyncio.run(ask(tool, "", task(name="a b"))) == "CREATE TABLE t(a)"
    assert tool.fingerprint != SqlTool(database="{name}.sqlite", folder=tmp_path).fingerprint


@pytest.mark.parametrize(
    ("template", "metadata", "words"),
    [
        ("{db}.sqlite", {}, "metadata.db must name its database"),
        ("{db}.sqlite", {"db": ["pets"]}, "got ['pets']"),
        ("{db}.sqlite", {"db": True}, "got True"),
        ("{db}.sqlite", {"db": ""}, "got ''"),
        ("{db}.sqlite", {"db": "a\0b"}, "must name its database"),
        ("{db}.sqlite", {"db": "nothing"}, "no database"),
        ("{db}.sqlite", {"db": "x" * 5000}, "no database"),
        ("{db}", {"db": "../../etc/passwd"}, "is not inside"),
        ("sub/{db}", {"db": "../../other/pets.sqlite"}, "is not inside"),
        ("{db}", {"db": "/etc/passwd"}, "is not inside"),
        ("{db}", {"db": "."}, "no database"),
        ("../{db}.sqlite", {"db": "pets"}, "is not inside"),
        ("{folder}/{db}", {"db": "../secret"}, "is not inside"),
    ],
)
def test_a_task_without_its_database_is_one_line(
    pets: Path, template: str, metadata: dict[str, Any], words: str
) -> None:
    tool = SqlTool(database=template.replace("{folder}", str(pets)), folder=pets)
    with pytest.raises(DataError) as error:
        tool.session(task(**metadata))
    assert "task 't1'" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absolute_path_and_a_link_of_the_user_are_taken(
    pets: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked").symlink_to(pets)
    for template in (f"{pets}/{{db}}.sqlite", "linked/{db}.sqlite", "linked/pets.sqlite"):
        assert Database(template=template, folder=elsewhere).of(task(db="pets")).samefile(pets / "pets.sqlite")


def test_the_fingerprint_knows_settings_and_data(pets: Path) -> None:
    def made(**more: Any) -> str:
        return SqlTool(**{"database": "{db}.sqlite", "folder": pets, **more}).fingerprint

    first = made()
    assert first == made() == made(timeout_s=9.0)
    assert (
        len({first, made(max_rows=3), made(max_chars=300), made(now="2025-01-30"), made(database="pets.sqlite")}) == 5
    )
    with contextlib.closing(sqlite3.connect(pets / "pets.sqlite")) as connection:
        connection.execute("DELETE FROM pets")
        connection.commit()
    assert made() != first


@pytest.mark.parametrize(
    "change",
    [
        lambda: SqlTool(database=" "),
        lambda: SqlTool(database="{a.b}.sqlite"),
        lambda: SqlTool(database="a}.sqlite"),
        lambda: SqlTool(database="a", now="soon"),
        lambda: SqlTool(database="a", now="now"),
        lambda: SqlTool(database="a", max_rows=0),
        lambda: SqlTool(database="a", max_chars=1),
        lambda: SqlTool(database="a", timeout_s=0),
    ],
)
def test_a_wrong_setting_is_refused(change: Callable[[], SqlTool]) -> None:
    with pytest.raises(ConfigError, match=r"sql: .* expected"):
        change()


def test_what_a_model_is_told() -> None:
    spec = SqlTool(database="x").spec
    assert (spec.name, spec.repeatable, spec.stateful) == ("sql", True, False)
    assert "SQLite" in spec.description
    assert list(spec.parameters["properties"]) == spec.parameters["required"] == ["query"]

"""The verifier `sql`: a query is as good as what it returns."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.load import load_tasks
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import Sql, Take, make_verifier
from tokenprior.verifiers.sql import find_columns, sorted_columns, unified

EXAMPLES = Path(__file__).parents[2] / "examples/sql"
DEFOG = Sql(database="databases/defog_{db_name}.sqlite", folder=EXAMPLES, now="2025-01-30 12:00:00")
NO_KEYS = frozenset[int]()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection:
        connection.execute("CREATE TABLE sold(id INTEGER, item TEXT, price REAL, day DATE)")
        rows = [(1, "pen", 1.5, "2025-01-01"), (2, "ink", 7.25, "2025-01-02"), (3, "pen", 1.5, "2025-01-03")]
        connection.executemany("INSERT INTO sold VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    return tmp_path


def made(folder: Path, **settings: Any) -> Sql:
    return Sql(**{"database": "shop.sqlite", "folder": folder, **settings})


async def judge(verifier: Sql, answer: Any, output: str, stop: StopReason = StopReason.DONE, **metadata: Any) -> Reward:
    task = Task(id="t", question="q", answer=answer, metadata=metadata)
    return await verifier.verify(task, Rollout(task_id="t", index=0, messages=(), output=output, stop=stop))


PER_ITEM = "SELECT item, count(*) AS n FROM sold GROUP BY item"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (PER_ITEM, PER_ITEM + ";"),
        (PER_ITEM, "SELECT item AS what, sum(1) FROM sold GROUP BY 1 ORDER BY 1 DESC"),
        (PER_ITEM, "SELECT count(*), item FROM sold GROUP BY item"),
        (PER_ITEM, "SELECT sum(1.0), item FROM sold GROUP BY item"),
        (PER_ITEM, f"Here it is:\n```sql\n{PER_ITEM}\n```\nIt gives\n```\nink | 1\n```"),
        (PER_ITEM, f"```SQLite\nSELECT 1\n```\nno:\n```sql\n{PER_ITEM}"),
        (PER_ITEM, f"```\n{PER_ITEM}\n```"),
        (["SELECT 1", PER_ITEM], PER_ITEM),
        (["SELECT nope", PER_ITEM], PER_ITEM),
        ("SELECT sum(price) FROM sold", "SELECT 10.25 + 1e-9"),
        ("SELECT 0", "SELECT 0.1 + 0.2 - 0.3"),
        ("SELECT item FROM sold WHERE 0", "SELECT day FROM sold WHERE id > 9"),
        ("SELECT NULL, x'00'", "SELECT x'00', NULL"),
    ],
)
async def test_what_gives_the_same_is_right(shop: Path, answer: Any, output: str) -> None:
    reward = await judge(made(shop), answer, output)
    assert (reward.value, reward.feedback) == (1.0, "Correct.")
    assert reward.extracted
    assert "`" not in reward.extracted


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("output", "feedback"),
    [
        ("SELECT nope FROM sold", "The query failed: no such column: nope."),
        ("DROP TABLE sold", "The query failed: only a SELECT is allowed, nothing can be changed; refused: DELETE."),
        ("the pen", 'The query failed: near "the": syntax error.'),
        ("  ", "No query was found in the output."),
        ("SELECT item FROM sold", "The query returned 3 rows, wanted 2 rows. It returned 1 column, wanted 2 columns."),
        ("SELECT item, 1 FROM sold", "The query returned 3 rows, wanted 2 rows. Wanted rows among them: 1."),
        ("SELECT DISTINCT item FROM sold", "Same rows, but a column is missing: 1 column, wanted 2."),
        (PER_ITEM.replace("item,", "item, 7,"), "Same rows, but with 3 columns, wanted 2."),
        (
            "SELECT 1, 2, 3 UNION SELECT 4, 5, 6",
            "The query returned 2 rows, which is right. It returned 3 columns, wanted 2 columns.",
        ),
        (
            "SELECT item, max(id) AS top FROM sold GROUP BY item",
            "The query returned 2 rows, which is right. Wanted rows among them: 0; "
            'other values stand in 1 column: "top". For example it returned "ink | 2", wanted "ink | 1".',
        ),
        (
            "SELECT 'ink', 2 UNION SELECT 'pen', 1",
            "The query returned 2 rows, which is right. Wanted rows among them: 0; the same values are put "
            'together in other rows. For example it returned "ink | 2", wanted "ink | 1".',
        ),
    ],
)
async def test_what_gives_something_else_is_told_how(shop: Path, output: str, feedback: str) -> None:
    reward = await judge(made(shop), PER_ITEM, output)
    assert (reward.value, reward.feedback) == (0.0, feedback)
    assert PER_ITEM not in reward.feedback


@pytest.mark.anyio
async def test_too_many_rows_too_long_and_cut_off_are_said(shop: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    many = await judge(made(shop), PER_ITEM, f"{endless} SELECT x FROM n")
    assert (many.value, many.feedback) == (0.0, "The query returned 100000 rows or more, wanted 2 rows.")
    slow = await judge(made(shop, timeout_s=0.5), PER_ITEM, f"{endless} SELECT count(*) FROM n")
    assert (slow.value, slow.feedback) == (0.0, "The query failed: it took longer than 0.5 s.")
    cut = await judge(made(shop), PER_ITEM, "SELECT item, count(", StopReason.LENGTH)
    assert cut.feedback.endswith("incomplete input. The attempt was cut off at its token limit before it ended.")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "answer", "reason"),
    [
        ({}, None, "task has no reference query"),
        ({}, [["a"]], "task has no reference query"),
        ({}, "SELECT nope", "the reference query failed: no such column: nope"),
        ({}, "SELECT 1 FROM sold a, sold b, sold c, sold d, sold e, sold f, sold g, sold h, sold i", "more than 10000"),
        ({"expected": "rows"}, None, "task has no reference rows"),
        ({"expected": "rows"}, ["a"], "expected a list of lists"),
        ({"expected": "rows"}, [["a"], ["b", "c"]], "not of one length"),
        ({"expected": "rows"}, [[{"a": 1}]], "which no database gives"),
        ({"expected": "rows"}, [[10**400]], "which no database gives"),
        ({"expected": "values"}, None, "task has no reference values"),
        ({"database": "nothing.sqlite"}, "SELECT 1", "no database"),
        ({"database": "{db}.sqlite"}, "SELECT 1", "metadata.db must name its database"),
    ],
)
async def test_what_cannot_be_judged_is_unscored(shop: Path, settings: Any, answer: Any, reason: str) -> None:
    reward = await judge(made(shop, **settings), answer, "SELECT 1")
    assert reward.value is None
    assert reason in reward.reason


@pytest.mark.anyio
async def test_the_order_of_rows_counts_where_the_reference_sorts(shop: Path) -> None:
    up, down, none = (f"SELECT id, item FROM sold{order}" for order in (" ORDER BY id", " ORDER BY id DESC", ""))
    for ordered, answer, output, value in [
        ("auto", up, up, 1.0),
        ("auto", up, down, 0.0),
        ("auto", none, down, 1.0),
        ("auto", f"SELECT * FROM ({up})", down, 1.0),
        (False, up, down, 1.0),
        (True, none, down, 0.0),
        (True, none, up, 1.0),
        # Rows that are equal in what is sorted by may change places, unless every order was asked for.
        ("auto", "SELECT id, item FROM sold ORDER BY item", "SELECT id, item FROM sold ORDER BY item, id DESC", 1.0),
        ("auto", "SELECT id, item FROM sold ORDER BY item", "SELECT id, item FROM sold ORDER BY item DESC", 0.0),
        (True, "SELECT id, item FROM sold ORDER BY item", "SELECT id, item FROM sold ORDER BY item, id DESC", 0.0),
        # What is sorted by does not show: no row may change its place.
        ("auto", "SELECT id FROM sold ORDER BY item", "SELECT id FROM sold ORDER BY item, id DESC", 0.0),
        ("auto", "SELECT id FROM sold ORDER BY item", "SELECT id FROM sold ORDER BY item, id", 1.0),
    ]:
        reward = await judge(made(shop, ordered=ordered), answer, output)
        assert reward.value == value, (ordered, answer, output)
        assert value == 1.0 or reward.feedback == "Same rows, but in another order."


@pytest.mark.anyio
async def test_columns_as_asked_for(shop: Path) -> None:
    for columns, output, feedback in [
        ("exact", PER_ITEM, "Correct."),
        (
            "exact",
            "SELECT count(*), item FROM sold GROUP BY item",
            "Same rows, but the columns stand in another order.",
        ),
        ("any_order", "SELECT count(*), item FROM sold GROUP BY item", "Correct."),
        ("any_order", PER_ITEM.replace("item,", "7, item,"), "Same rows, but with 3 columns, wanted 2."),
        ("extra", PER_ITEM.replace("item,", "7, item,"), "Correct."),
        ("extra", PER_ITEM.replace("item,", "7, item,") + " ORDER BY item DESC", "Correct."),
        ("extra", "SELECT DISTINCT item FROM sold", "Same rows, but a column is missing: 1 column, wanted 2."),
    ]:
        assert (await judge(made(shop, columns=columns), PER_ITEM, output)).feedback == feedback


@pytest.mark.anyio
async def test_another_order_is_said_where_more_columns_are_allowed(shop: Path) -> None:
    more = PER_ITEM.replace("item,", "7, item,") + " ORDER BY item DESC"
    reward = await judge(made(shop, columns="extra"), PER_ITEM + " ORDER BY item", more)
    assert (reward.value, reward.feedback) == (0.0, "Same rows, but in another order.")


@pytest.mark.anyio
async def test_rows_can_be_the_reference(shop: Path) -> None:
    verifier = made(shop, expected="rows")
    assert (await judge(verifier, [["ink", 1], ["pen", 2]], PER_ITEM)).value == 1.0
    assert (await judge(verifier, None, PER_ITEM, result=[["pen", 2.0], ["ink", 1]])).value == 1.0
    assert (await judge(verifier, [["ink", 1], ["pen", 3]], PER_ITEM)).value == 0.0
    assert (await judge(verifier, [], "SELECT 1 WHERE 0")).value == 1.0
    assert (await judge(verifier, [], "SELECT 1")).feedback == "The query returned 1 row, wanted 0 rows."
    assert (await judge(verifier, [[True]], "SELECT 1")).value == 1.0


@pytest.mark.anyio
async def test_values_can_be_the_reference(shop: Path) -> None:
    verifier = made(shop, expected="values")
    for answer, output, value in [
        (["pen", "ink"], "SELECT DISTINCT item FROM sold", 1.0),
        (["PEN", " ink"], "SELECT DISTINCT item FROM sold", 1.0),
        (["pen", "ink"], "SELECT item FROM sold", 0.0),
        (["10.250"], "SELECT sum(price) FROM sold", 1.0),
        ("32502.0", "SELECT '32,502'", 1.0),
        (["32502.0"], "SELECT '32,50'", 0.0),
        (["1234567890123456789"], "SELECT 1234567890123456789", 1.0),
        (["1234567890123456789"], "SELECT 1234567890123456790", 0.0),
        (["none"], "SELECT item FROM sold WHERE 0", 1.0),
        (["none"], "SELECT max(item) FROM sold WHERE 0", 1.0),
        (["none"], "SELECT item FROM sold", 0.0),
    ]:
        assert (await judge(verifier, answer, output)).value == value, output
    wrong = await judge(verifier, ["pen"], "SELECT item FROM sold")
    assert wrong.feedback == 'The query returned "pen", "ink", "pen". Wanted: "pen".'
    assert (
        await judge(made(shop, expected="values", ordered=True), ["pen", "ink"], "SELECT 'ink', 'pen'")
    ).value == 0.0


@pytest.mark.anyio
async def test_the_query_is_read_where_take_says(shop: Path) -> None:
    verifier = made(shop, take=Take.parse("after:Query:"))
    assert (await judge(verifier, "SELECT 1", "Query: SELECT 1\nThat is all.")).extracted == "SELECT 1"
    nothing = await judge(verifier, "SELECT 1", "SELECT 1")
    assert nothing.value == 0.0
    assert nothing.feedback.startswith("No query was found in the text after the last 'Query:'")


def examples(name: str) -> list[Task]:
    return list(load_tasks(EXAMPLES / name))


def stamps() -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in EXAMPLES.rglob("*") if path.is_file()}


@pytest.mark.anyio
async def test_every_reference_of_the_examples_is_as_good_as_itself() -> None:
    before = stamps()
    tasks = examples("tasks.jsonl")
    assert len(tasks) == 40
    own = [judge(DEFOG, task.answer, f"```sql\n{task.answer}\n```", **task.metadata) for task in tasks]
    assert {reward.value for reward in await asyncio.gather(*own)} == {1.0}
    other = [judge(DEFOG, task.answer, "SELECT 'something else'", **task.metadata) for task in tasks]
    assert {reward.value for reward in await asyncio.gather(*other)} == {0.0}
    assert all(task.question.count("CREATE TABLE ") >= 4 for task in tasks)
    assert stamps() == before


@pytest.mark.anyio
async def test_a_model_may_say_now_where_the_reference_holds_a_time() -> None:
    task = examples("tasks_plain.jsonl")[0]
    assert "'2025-01-30 12:00:00'" in task.answer
    said = task.answer.replace("'2025-01-30 12:00:00'", "'now'")
    assert (await judge(DEFOG, task.answer, said, **task.metadata)).value == 1.0


def test_the_two_files_of_the_example_ask_the_same() -> None:
    for with_tables, plain in zip(examples("tasks.jsonl"), examples("tasks_plain.jsonl"), strict=True):
        assert with_tables.question.startswith(plain.question)
        assert (with_tables.id, with_tables.answer) == (plain.id, plain.answer)


@pytest.mark.anyio
async def test_the_example_with_values_has_a_query_for_its_answers() -> None:
    verifier = Sql(database="databases/{db}.sqlite", folder=EXAMPLES / "dbbench", expected="values")
    tasks = {task.id: task for task in examples("dbbench/tasks.jsonl")}
    assert len(tasks) == 19
    for name, query in [
        (
            "dbbench-dev-13",
            """SELECT max(CAST(replace(Crowd, ',', '') AS INTEGER)) FROM "Australian Rules Football Matches"
         WHERE "Home team score" = '13.17 (95)'""",
        ),
        ("dbbench-dev-18", """SELECT Attendance FROM "Baseball Team Record" WHERE Record = '15-28'"""),
        ("dbbench-dev-17", 'SELECT max(Bronze) FROM "Medal Tally" WHERE CAST(Silver AS INTEGER) < 0'),
        ("dbbench-dev-19", "SELECT avg(Total) FROM Olympic_medal_counts WHERE Nation LIKE '%Iran%' AND Gold = '0'"),
    ]:
        task = tasks[name]
        reward = await judge(verifier, task.answer, query, **task.metadata)
        assert reward.value == 1.0, (name, reward)
    for task in tasks.values():
        assert (await judge(verifier, task.answer, "SELECT 'x'", **task.metadata)).value == 0.0


def test_settings_come_from_a_config(shop: Path) -> None:
    spec = {"kind": "sql", "database": "shop.sqlite", "ordered": True, "take": "last_line"}
    verifier = make_verifier(spec, folder=shop)
    assert verifier == Sql(database="shop.sqlite", folder=shop, ordered=True, take=Take(place="last_line"))
    assert verifier.fingerprint == make_verifier(spec, folder=str(shop)).fingerprint
    assert make_verifier({"kind": "sql", "database": "a", "ordered": "auto", "expected": "rows"})
    for wrong in (
        {"ordered": "yes"},
        {"expected": "answers"},
        {"columns": 1},
        {"tolerance_rel": -1.0},
        {"timeout_s": 0},
    ):
        with pytest.raises(ConfigError):
            make_verifier({"kind": "sql", "database": "a", **wrong})
    with pytest.raises(ConfigError, match="database is missing"):
        make_verifier({"kind": "sql"})


def test_the_fingerprint_knows_what_changes_a_verdict(shop: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"ordered": True},
        {"ordered": False},
        {"columns": "exact"},
        {"expected": "rows"},
        {"tolerance_rel": 0.0},
        {"now": "2025-01-30"},
        {"take": Take(place="all")},
        {"database": "{db}.sqlite"},
    ]
    assert len({made(shop, **change).fingerprint for change in changes}) == len(changes)
    assert made(shop).fingerprint == made(shop, timeout_s=1.0).fingerprint


@pytest.mark.parametrize(
    ("query", "columns", "keys"),
    [
        ("SELECT a FROM t", "a", ()),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", "a", ()),
        ("SELECT a, row_number() OVER (ORDER BY b) FROM t", "a b", ()),
        ("SELECT 'x ORDER BY a' FROM t -- ORDER BY a\n/* ORDER BY a */", "a", ()),
        ("SELECT a, b FROM t ORDER BY b DESC LIMIT 3", "a b", (1,)),
        ("SELECT a, b FROM t order\n by t.B, a NULLS LAST;", "a b", (0, 1)),
        ("SELECT a, b FROM t ORDER BY 2", "a b", (1,)),
        ('SELECT a, b FROM t ORDER BY "b"', "a b", (1,)),
        ("SELECT a, b FROM t ORDER BY CASE WHEN b IS NULL THEN 1 ELSE 0 END, b", "a b", (1,)),
        ("SELECT a, b FROM t ORDER BY c", "a b", (0, 1)),
        ("SELECT a, SUM(b) FROM t GROUP BY a ORDER BY SUM( b ) DESC", "a SUM(b)", (1,)),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY a", "a", (0,)),
    ],
)
def test_what_a_query_sorts_by(query: str, columns: str, keys: tuple[int, ...]) -> None:
    assert sorted_columns(query, columns.split()) == keys


CELLS = st.one_of(
    st.none(),
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, width=32),
    st.sampled_from(["a", "b", "", "1", "none"]),
    st.binary(max_size=2),
)


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    width = draw(st.integers(1, 4))
    return draw(st.lists(st.tuples(*[CELLS] * width), min_size=1, max_size=6))


def same(wanted: list[Any], found: list[Any], keys: frozenset[int] = NO_KEYS, columns: str = "any_order") -> bool:
    ours, theirs = unified(wanted, found, 1e-6)
    if len(ours) != len(theirs):
        return False
    return find_columns(ours, theirs, len(ours[0]), len(theirs[0]), keys, columns) is not None


@given(tables(), st.randoms(use_true_random=False))
def test_other_places_of_rows_and_columns_are_the_same_result(table: list[Any], random: Any) -> None:
    places = list(range(len(table[0])))
    random.shuffle(places)
    moved = [tuple(row[place] for place in places) for row in table]
    assert same(table, moved, frozenset(range(len(places))))
    random.shuffle(moved)
    assert same(table, moved)
    assert same(moved, table)
    assert same(table, [(*row, "more") for row in moved], columns="extra")
    assert not same(table, [(*row, "more") for row in moved])


@given(tables(), st.data())
def test_one_other_value_is_another_result(table: list[Any], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(table) - 1))
    column = data.draw(st.integers(0, len(table[0]) - 1))
    changed = [list(values) for values in table]
    changed[row][column] = "a value of its own"
    other = [tuple(values) for values in changed]
    for columns in ("exact", "any_order", "extra"):
        assert not same(table, other, columns=columns)
        assert not same(other, table, columns=columns)


@given(tables(), st.data())
def test_a_row_more_or_once_more_is_another_result(table: list[Any], data: st.DataObject) -> None:
    assert not same(table, [*table, data.draw(st.sampled_from(table))])


@given(tables(), st.floats(1 - 1e-7, 1 + 1e-7))
def test_rounding_changes_nothing(table: list[Any], factor: float) -> None:
    near = [tuple(cell * factor if isinstance(cell, float) else cell for cell in row) for row in table]
    ours, theirs = unified(table, near, 1e-6)
    whole = [cell for row in table for cell in row if isinstance(cell, float) and cell.is_integer() and factor != 1]
    assert ours == theirs or whole or factor == 1


def test_whole_numbers_are_compared_exactly_and_noise_is_one() -> None:
    assert not same([(1234567890123456789,)], [(1234567890123456790,)])
    assert not same([(10_000_001,)], [(10_000_002,)])
    assert not same([(10_000_001,)], [(10_000_002.0,)])
    assert same([(10_000_001,)], [(10_000_001.0,)])
    assert same([(0.3, "b"), (0.1 + 0.2, "a")], [(0.3, "a"), (0.3, "b")])
    assert not same([(1.5,)], [(1.50001,)])
    assert not same([(float("inf"),)], [(1.7e308,)])
    assert not same([("1",)], [(1,)])


def test_numbers_that_are_close_to_each_other_in_the_data_stay_apart() -> None:
    prices = [(100_000 + number / 100,) for number in range(300)]
    assert same(prices[:100], [(price + 1e-9,) for (price,) in prices[:100]])
    assert not same(prices[:100], prices[50:150])
    assert not same([(1.5, "b"), (1.5 + 1e-7, "a")], [(1.5, "a"), (1.5 + 1e-7, "b")])


def test_columns_are_matched_as_a_whole_and_the_search_ends() -> None:
    assert not same([(0, 1), (1, 0)], [(0, 0), (1, 1)])
    assert same([(0, 1, 1), (1, 0, 1)], [(1, 0, 1), (1, 1, 0)])
    wide = [tuple(int(i == j) for j in range(60)) for i in range(60)]
    assert same(wide, wide[::-1])

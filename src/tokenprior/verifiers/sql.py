"""Sql: the query that was written gives what the reference gives, on the database of the task.

Order of events: the query is read from the output; it and the reference are run, each in a process of its own on a
database that nothing can change (`sqlite_query`); the two results are compared as tables. How a query is written and
what its columns are called never counts.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenprior.errors import ConfigError, DataError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.sqlite_query import Cell, Database, QueryFailed, QueryLost, Rows, run_query
from tokenprior.task import Task, content_hash
from tokenprior.verifiers.diagnose import quoted, quoted_all
from tokenprior.verifiers.take import NotRead, Take

RULE = 2
MAX_ROWS = 10_000
MAX_KNOWN = 256
NOISE_REL = 1e-12
MAX_CELLS_SEARCHED = 2_000_000
_CUT_OFF = " The attempt was cut off at its token limit before it ended."
_SQL_BLOCK = re.compile(r"```[ \t]*(?:sql|sqlite)[ \t]*\r?\n(.*?)(?:```|\Z)", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?")
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*'|(?P<quoted>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])|(?P<word>\w+)|(?P<mark>\S)""",
    re.DOTALL,
)

Row = tuple[Cell, ...]


class _Unclear(Exception):
    """Why an attempt cannot be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A reference result; `keys` are the columns that have to agree row by row, all others only within their rows."""

    rows: tuple[Row, ...]
    width: int
    keys: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """1.0 if the query gives the wanted result, else 0.0. Rows are compared as often as they occur.

    Attributes:
        database: the path of a task's database; `{field}` stands for a field of the task's metadata, as in
            `databases/{db_name}.sqlite`.
        folder: what a relative path starts from and may not leave.
        now: the time that SQL takes for now, such as `2025-01-30 12:00:00`; empty for the clock, by which verdicts
            may change from day to day.
        take: where the query is read; `None` takes the last ```sql block, or the last ``` block, or the whole output.
        expected: what the answer of a task is: `query` a query, or a list of queries of which one suffices; `rows` a
            list of rows, or else `metadata.result`; `values` the values of all cells as texts, compared without
            letter case, numbers as numbers, and `none` for no rows and for NULL.
        ordered: whether the order of rows counts; `auto` where the reference query has an ORDER BY of its own, and
            then rows that are equal in all that it sorts by may change places.
        columns: `exact` the same columns in the same order; `any_order`; `extra` any order, and more of them.
        tolerance_rel: largest difference of two numbers as a part of the larger; 0 or more. Whole numbers are compared
            exactly.
        timeout_s: seconds that one query may take; above 0.

    Raises:
        ConfigError: a setting is wrong.
    """

    database: str
    folder: str | Path = "."
    now: str = ""
    take: Take | None = None
    expected: Literal["query", "rows", "values"] = "query"
    ordered: Literal["auto"] | bool = "auto"
    columns: Literal["exact", "any_order", "extra"] = "any_order"
    tolerance_rel: float = 1e-9
    timeout_s: float = 5.0
    _database: Database = field(init=False, repr=False, compare=False)
    _known: dict[str, tuple[_Wanted, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"sql: timeout_s is {self.timeout_s!r}, expected more than 0")
        if not (math.isfinite(self.tolerance_rel) and self.tolerance_rel >= 0):
            raise ConfigError(f"sql: tolerance_rel is {self.tolerance_rel!r}, expected 0 or more")
        where = Database(template=self.database, folder=Path(self.folder), now=self.now)
        object.__setattr__(self, "_database", where)

    @property
    def fingerprint(self) -> str:
        """Covers the content of the databases as well."""
        settings = [self.expected, self.ordered, self.columns, self.tolerance_rel]
        return content_hash(["sql", RULE, self._database.fingerprint, str(self.take), settings])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Run and compare. Unscored if there is no database or no reference that works, or the results cannot be
        compared. A query that fails is 0.0."""
        try:
            path = self._database.of(task)
            wanted = await self._wanted(task, path)
            read = await self._read(rollout.output)
        except (DataError, NotRead, _Unclear) as error:
            return Reward.unscored(str(error))
        cut_off = _CUT_OFF if rollout.stop is StopReason.LENGTH else ""
        if read is None:
            place = self.take.words if self.take else "the output"
            return Reward(value=0.0, feedback=f"No query was found in {place}.{cut_off}")
        try:
            found = await self._run(path, read)
        except QueryFailed as error:
            return Reward(value=0.0, extracted=read, feedback=f"The query failed: {error}.{cut_off}")
        except QueryLost as error:
            return Reward.unscored(str(error))
        if found.count > MAX_ROWS:
            feedback = f"The query returned {found.count} rows or more, wanted {_count(len(wanted[0].rows), 'row')}."
            return Reward(value=0.0, extracted=read, feedback=feedback)
        try:
            words = [await asyncio.to_thread(self._difference, one, found) for one in wanted]
        except _Unclear as error:
            return Reward.unscored(str(error))
        if "" in words:
            return Reward(value=1.0, extracted=read, feedback="Correct.")
        return Reward(value=0.0, extracted=read, feedback=words[0])

    async def _read(self, output: str) -> str | None:
        if self.take is not None:
            return await self.take.read(output)
        blocks = [block for block in _SQL_BLOCK.findall(output) if block.strip()]
        if blocks:
            return str(blocks[-1]).strip()
        return await Take(place="fence").read(output) or output.strip() or None

    async def _run(self, path: Path, query: str) -> Rows:
        return await run_query(path, query, now=self.now, keep=MAX_ROWS, timeout_s=self.timeout_s)

    async def _wanted(self, task: Task, path: Path) -> tuple[_Wanted, ...]:
        known = self._known.get(task.fingerprint)
        if known is None:
            known = await self._references(task, path)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[task.fingerprint] = known
        return known

    async def _references(self, task: Task, path: Path) -> tuple[_Wanted, ...]:
        if self.expected == "values":
            if not task.accepted:
                raise _Unclear("task has no reference values")
            return (self._made([(text,) for text in task.accepted], 1, ()),)
        if self.expected == "rows":
            rows = _json_rows(task.answer if task.answer is not None else task.metadata.get("result"))
            return (self._made(rows, len(rows[0]) if rows else 0, ()),)
        queries = [query for query in task.accepted if query.strip()]
        if not queries:
            raise _Unclear("task has no reference query")
        made: list[_Wanted] = []
        problem = ""
        for query in queries:
            try:
                found = await self._run(path, query)
            except QueryFailed as error:
                problem = problem or f"the reference query failed: {error}"
                continue
            except QueryLost as error:
                raise _Unclear(str(error)) from error
            if found.count > MAX_ROWS:
                problem = problem or f"the reference query returns more than {MAX_ROWS} rows"
                continue
            made.append(self._made(found.rows, len(found.columns), sorted_columns(query, found.columns)))
        if not made:
            raise _Unclear(problem)
        return tuple(made)

    def _made(self, rows: Iterable[Row], width: int, keys: Iterable[int]) -> _Wanted:
        if self.ordered != "auto":
            keys = range(width) if self.ordered else ()
        return _Wanted(rows=tuple(rows), width=width, keys=frozenset(keys))

    def _difference(self, wanted: _Wanted, found: Rows) -> str:
        if self.expected == "values":
            return _other_values(wanted, found.rows, self.tolerance_rel)
        ours, theirs = unified(wanted.rows, found.rows, self.tolerance_rel)
        width = len(found.columns)
        if not ours and not theirs and not wanted.width:  # rows of a file: none have no width
            return ""
        if len(ours) == len(theirs) and find_columns(ours, theirs, wanted.width, width, wanted.keys, self.columns):
            return ""
        return _explained(ours, theirs, wanted, found, self.columns)


def find_columns(
    wanted: Sequence[Row], found: Sequence[Row], wanted_width: int, width: int, keys: frozenset[int], columns: str
) -> tuple[int, ...] | None:
    """Which columns of one table make it the other, or `None` if none do. As many rows are in both.

    Args:
        wanted: the one, and `wanted_width` its number of columns, which no rows would not tell.
        found: the other, and `width` its number of columns.
        keys: columns of `wanted` that have to agree row by row.
        columns: see `Sql.columns`.

    Raises:
        _Unclear: too many columns are alike to try them all.
    """
    if width != wanted_width and not (columns == "extra" and width > wanted_width):
        return None
    ours = [tuple(row[i] for row in wanted) for i in range(wanted_width)]
    theirs = [tuple(row[i] for row in found) for i in range(width)]
    counts = [Counter(column) for column in theirs]
    fitting = []
    for index, column in enumerate(ours):
        count = Counter(column)
        candidates = [index] if columns == "exact" else range(width)
        fitting.append([i for i in candidates if counts[i] == count and (index not in keys or theirs[i] == column)])
    left = MAX_CELLS_SEARCHED

    def search(chosen: tuple[int, ...]) -> tuple[int, ...] | None:
        nonlocal left
        depth = len(chosen)
        left -= len(wanted) * depth + 1
        if left < 0:
            raise _Unclear("too many columns are alike to compare the results")
        if depth > 1 and Counter(zip(*ours[:depth], strict=True)) != Counter(
            zip(*(theirs[i] for i in chosen), strict=True)
        ):
            return None
        if depth == wanted_width:
            return chosen
        tries = (search((*chosen, i)) for i in fitting[depth] if i not in chosen)
        return next((made for made in tries if made is not None), None)

    return search(())


def unified(wanted: Sequence[Row], found: Sequence[Row], tolerance_rel: float) -> tuple[list[Row], list[Row]]:
    """Both tables with numbers that are as good as equal made equal, so that cells can be compared with `==`.

    Numbers that only the order of a sum parts are one, in both tables (`NOISE_REL`). Beyond that a number that was
    found stands for the nearest one that is wanted, if that is within the tolerance; those wanted stay apart.
    """
    same: dict[float, float] = {}
    before: float | None = None
    for number in sorted(_numbers(wanted) | _numbers(found)):
        is_same = before is not None and _is_near(before, number, min(tolerance_rel, NOISE_REL))
        same[number] = same[before] if is_same and before is not None else number
        before = number
    known = sorted({same[number] for number in _numbers(wanted)})
    nearest = dict(same)
    for number in _numbers(found):
        at = bisect(known, same[number])
        around = known[max(0, at - 1) : at + 1]
        close = [one for one in around if _is_near(min(one, number), max(one, number), tolerance_rel)]
        if same[number] not in around and close:
            nearest[number] = min(close, key=lambda one: abs(one - number))
    return _with(same, wanted), _with(nearest, found)


def _numbers(table: Sequence[Row]) -> set[int | float]:
    return {cell for row in table for cell in row if isinstance(cell, int | float)}


def _with(numbers: dict[float, float], table: Sequence[Row]) -> list[Row]:
    return [tuple(numbers[cell] if isinstance(cell, int | float) else cell for cell in row) for row in table]


def _is_near(low: float, high: float, tolerance_rel: float) -> bool:
    if isinstance(low, int) and isinstance(high, int):
        return False  # also ids that are too large to be exact as a float
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    largest = max(abs(low), abs(high))
    if largest < 2**53 and low == int(low) and high == int(high):
        return False  # ids and counts
    # What cancels out to nothing leaves a rest that no part of it is small enough for.
    return high - low <= max(tolerance_rel * largest, 1e-12 if tolerance_rel else 0.0)


def sorted_columns(query: str, columns: Sequence[str]) -> tuple[int, ...]:
    """The columns of its result that a query sorts by; none if it has no ORDER BY of its own. All of them where it
    sorts by something else, for then nobody can see which rows may change places."""
    terms = _order_terms(query)
    names = ["".join(name.lower().split()) for name in columns]
    found: set[int] = set()
    for term in terms:
        text = "".join(term)
        at = {i for i, name in enumerate(names) if name in term or name == text}
        if len(term) == 1 and term[0].isdigit() and 0 < int(term[0]) <= len(columns):
            at = {int(term[0]) - 1}
        if not at:
            return tuple(range(len(columns)))
        found |= at
    return tuple(sorted(found))


def _order_terms(query: str) -> list[list[str]]:
    """The words and marks of each term of the outermost ORDER BY, in small letters, without direction."""
    depth, before = 0, ""
    terms: list[list[str]] = []
    for token in _TOKEN.finditer(query):
        text = (token["word"] or token["mark"] or (token["quoted"] or "")[1:-1]).lower()
        depth += (token["mark"] == "(") - (token["mark"] == ")")
        word = (token["word"] or "").lower() if depth == 0 else ""
        if word == "by" and before == "order":
            terms = [[]]
        elif terms and word == "limit":
            break
        elif terms and depth == 0 and token["mark"] == ",":
            terms.append([])
        elif terms and text and text != ";" and word not in ("asc", "desc", "nulls", "first", "last"):
            terms[-1].append(text)
        before = word
    return [term for term in terms if term]


def _json_rows(value: Any) -> list[Row]:
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) for row in value):
        raise _Unclear("task has no reference rows: expected a list of lists")
    for row in value:
        for cell in row:
            if not (cell is None or isinstance(cell, str | int | float)) or (
                isinstance(cell, int) and abs(cell) >= 2**63
            ):
                raise _Unclear(f"the reference rows hold {repr(cell)[:40]}, which no database gives")
    if len({len(row) for row in value}) > 1:
        raise _Unclear("the reference rows are not of one length")
    return [tuple(row) for row in value]


def _other_values(wanted: _Wanted, rows: Sequence[Row], tolerance_rel: float) -> str:
    cells = [cell for row in rows for cell in row]
    ours = [(_value(cell),) for (cell,) in wanted.rows]
    theirs = [(_value(cell),) for cell in cells] or [("none",)]
    ours, theirs = unified(ours, theirs, tolerance_rel)  # type: ignore[assignment]  # rows of one cell
    if (ours == theirs) if wanted.keys else (Counter(ours) == Counter(theirs)):
        return ""
    shown = quoted_all([_shown(cell) for cell in cells], ", ") if cells else "no rows"
    return f"The query returned {shown}. Wanted: {quoted_all([str(cell) for (cell,) in wanted.rows], ', ')}."


def _value(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return "none" if cell is None else cell
    text = " ".join(cell.split()).casefold()
    if not _NUMBER.fullmatch(text):
        return text
    digits = text.replace(",", "")
    return int(digits) if digits.lstrip("+-").isdigit() and len(digits) < 20 else float(digits)


def _explained(ours: list[Row], theirs: list[Row], wanted: _Wanted, found: Rows, columns: str) -> str:
    """How two tables differ, in words."""
    width, none = len(found.columns), frozenset[int]()
    size = f"The query returned {_count(len(theirs), 'row')}, wanted {_count(len(ours), 'row')}."
    if len(ours) == len(theirs):
        if find_columns(ours, theirs, wanted.width, width, none, columns):
            return "Same rows, but in another order."
        if width > wanted.width and find_columns(ours, theirs, wanted.width, width, none, "extra"):
            return f"Same rows, but with {_count(width, 'column')}, wanted {wanted.width}."
        if width < wanted.width and find_columns(theirs, ours, width, wanted.width, none, "extra"):
            return f"Same rows, but a column is missing: {_count(width, 'column')}, wanted {wanted.width}."
        if find_columns(ours, theirs, wanted.width, width, none, "any_order"):
            return "Same rows, but the columns stand in another order."
        size = f"The query returned {_count(len(theirs), 'row')}, which is right."
    if width != wanted.width and (ours or wanted.width):
        return f"{size} It returned {_count(width, 'column')}, wanted {_count(wanted.width, 'column')}."
    ours_counted, theirs_counted = Counter(ours), Counter(theirs)
    right = (ours_counted & theirs_counted).total()
    if len(ours) != len(theirs):
        return f"{size} Wanted rows among them: {right}." if theirs and ours else size
    held = [Counter(column) for column in zip(*ours, strict=True)]
    names = [
        name
        for name, column in zip(found.columns, zip(*theirs, strict=True), strict=True)
        if Counter(column) not in held
    ]
    place = (
        f"other values stand in {_count(len(names), 'column')}: {quoted_all(names, ', ')}"
        if names
        else "the same values are put together in other rows"
    )
    lacking = next(iter(ours_counted - theirs_counted), None)
    extra = next(iter(theirs_counted - ours_counted), None)
    example = f" For example it returned {_line(extra)}, wanted {_line(lacking)}." if lacking and extra else ""
    return f"{size} Wanted rows among them: {right}; {place}.{example}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _line(row: Row) -> str:
    return quoted(" | ".join(_shown(cell) for cell in row))


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "NULL"
        case bytes():
            return f"x'{cell[:100].hex()}'"
        case str():
            return cell
        case _:
            return json.dumps(cell)

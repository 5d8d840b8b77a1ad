"""Task and TaskSet: what the agent practises on, with stable ids and splits that never mix.

Order of events: rows are read from a file (`load_tasks`), each becomes a `Task`, a `TaskSet` checks that ids are
unique, and `TaskSet.split` parts it once and for all by a seed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenprior.errors import ConfigError, DataError

FIELDS = ("id", "question", "answer", "metadata", "images")
MOST_IMAGE_BYTES = 20_000_000


def content_hash(value: object) -> str:
    """Twenty hexadecimal digits that name a JSON value for good, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One question for the agent.

    Attributes:
        id: its name for life; groups are keyed by it.
        question: what the agent is asked.
        answer: the reference: a string, a list of accepted strings, any other JSON value for a verifier that
            knows its shape, or `None` if there is none.
        metadata: whatever else the row holds; never shown to a model.
        images: that belong to the question: addresses, `data:` ones for those that were files.
    """

    id: str
    question: str
    answer: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted answers as strings: one, several, or none where the answer is a structure or missing."""
        match self.answer:
            case bool():
                return (str(self.answer),)
            case str() | int() | float():
                return (str(self.answer),)
            case list() | tuple() if self.answer and all(isinstance(a, str | int | float) for a in self.answer):
                return tuple(str(a) for a in self.answer)
            case _:
                return ()

    @property
    def text_key(self) -> str:
        """The question with case and white space folded: equal keys are one text for a split."""
        return " ".join(self.question.split()).casefold()

    @property
    def fingerprint(self) -> str:
        """A hash of all that can change what becomes of this task."""
        images = [list(self.images)] if self.images else []
        return content_hash([self.id, self.question, self.answer, dict(self.metadata), *images])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three sets that share no text: lessons are drawn from `practice`, candidates tried on `gate`, and
    `held_out` is looked at for the report only."""

    practice: TaskSet
    gate: TaskSet
    held_out: TaskSet

    @property
    def every(self) -> tuple[Task, ...]:
        """All tasks, for what belongs to the data as a whole, such as the options of a choice."""
        return (*self.practice, *self.gate, *self.held_out)


class TaskSet(Sequence[Task]):
    """Tasks in the order of their file, with unique ids. Immutable."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tuple(tasks)
        seen: set[str] = set()
        for task in self._tasks:
            if task.id in seen:
                raise DataError(f"task id {task.id!r} stands twice: give every row an id of its own, or none at all")
            seen.add(task.id)

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __getitem__(self, index: Any) -> Any:
        return TaskSet(self._tasks[index]) if isinstance(index, slice) else self._tasks[index]

    def __repr__(self) -> str:
        return f"TaskSet({len(self)} tasks)"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all tasks in their order."""
        return content_hash([task.fingerprint for task in self._tasks])

    def split(self, *, practice: int, gate: int = 0, held_out: int | None = None, seed: int = 0) -> Split:
        """Part the set by a seed. Tasks of equal text always fall on one side.

        The order comes from a hash of the seed and the text: it is the same on every machine and for every order of
        the file, and added rows move no other row past another. Where the borders fall depends on all rows, so a row
        may change its part when rows are added.

        Args:
            practice: how many tasks to learn from.
            gate: how many to try candidates on.
            held_out: how many to report on; `None` takes all that is left. A part comes out smaller than asked for
                where tasks of equal text do not all fit into it.

        Raises:
            ConfigError: if there are fewer tasks than asked for, or a number is negative.
        """
        if min(practice, gate, held_out or 0) < 0:
            raise ConfigError(f"split: practice {practice}, gate {gate}, held_out {held_out}: none may be negative")
        by_text: dict[str, list[Task]] = {}
        for task in self._tasks:
            by_text.setdefault(task.text_key, []).append(task)
        ordered = sorted(by_text.values(), key=lambda same: (content_hash([seed, same[0].text_key]), same[0].id))
        wanted = practice + gate + (held_out or 0)
        if wanted > len(self._tasks):
            raise ConfigError(
                f"split asks for {wanted} tasks (practice {practice}, gate {gate}, held_out {held_out}), "
                f"but there are {len(self._tasks)}: ask for fewer"
            )
        parts: list[list[Task]] = [[], [], []]
        limits: list[float] = [practice, gate, float("inf") if held_out is None else held_out]
        for same in ordered:
            for part, limit in zip(parts, limits, strict=True):
                if len(part) + len(same) <= limit:
                    part.extend(same)
                    break
        return Split(practice=TaskSet(parts[0]), gate=TaskSet(parts[1]), held_out=TaskSet(parts[2]))


def load_tasks(path: str | Path, *, fields: Mapping[str, str] | None = None) -> TaskSet:
    """Read tasks from a JSONL or CSV file.

    Args:
        path: a `.csv` file with a header line, or anything else with one JSON object a line. Lines end at `\\n` only.
        fields: which of the file's fields stand for `id`, `question`, `answer`, `metadata` and `images`; those not
            named keep their own name. An image is an address, or a file beside this one. Fields of the row that stand
            for none of them are kept in the metadata. Without an id, a row gets one from its content. In CSV an answer
            that is a JSON list or object is read as such.

    Raises:
        DataError: names the file, the line, and what was expected.
        ConfigError: if `fields` names something else than these.
    """
    mapping = dict(zip(FIELDS, FIELDS, strict=True)) | dict(fields or {})
    if unknown := set(mapping) - set(FIELDS):
        raise ConfigError(f"fields maps {sorted(unknown)}, but a task has only {list(FIELDS)}")
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    rows = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _jsonl_rows(text, path)
    tasks: list[Task] = []
    first_line: dict[str, int] = {}
    copies: dict[str, int] = {}
    for line, row in rows:
        task = _task(row, mapping, f"{path}:{line}", copies)
        if task.id in first_line:
            raise DataError(f"{path}:{line}: id {task.id!r} was used before, on line {first_line[task.id]}")
        first_line[task.id] = line
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}: no rows")
    return TaskSet(tasks)


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not str.splitlines: U+2028 and U+0085 occur inside real questions.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def _no_constant(name: str) -> None:
    # Python reads NaN and Infinity, JSON knows neither, and NaN is not even equal to itself.
    raise ValueError(f"{name} is no JSON value, write null or a text")


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for row in reader:
            if row and header is None:
                header = row
                if twice := sorted({name for name in row if row.count(name) > 1}):
                    raise DataError(f"{path}:{start}: the header names {twice} twice")
            elif row and header is not None:
                if len(row) != len(header):
                    more = "more" if len(row) > len(header) else "fewer"
                    raise DataError(f"{path}:{start}: {more} fields than the header has")
                yield start, dict(zip(header, row, strict=True))
            start = reader.line_num + 1  # a quoted field may hold line ends
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _task(row: dict[str, Any], mapping: Mapping[str, str], where: str, copies: dict[str, int]) -> Task:
    question = row.get(mapping["question"])
    if not isinstance(question, str) or not question.strip():
        found = "nothing" if question is None else repr(question)[:40]
        raise DataError(
            f"{where}: field {mapping['question']!r} must be a text, got {found}; the row has {sorted(row)[:8]} "
            "(map your field names with `fields`)"
        )
    if mapping["answer"] != "answer" and mapping["answer"] not in row:
        raise DataError(f"{where}: no field {mapping['answer']!r}; the row has {sorted(row)[:8]}")
    answer = row.get(mapping["answer"])
    if where.rsplit(":", 1)[0].lower().endswith(".csv"):
        answer = _csv_answer(answer)
    metadata = row.get(mapping["metadata"]) or {}
    if not isinstance(metadata, dict):
        metadata = {mapping["metadata"]: metadata}
    metadata = metadata | {key: value for key, value in row.items() if key not in mapping.values()}
    given = row.get(mapping["id"])
    if given is None or given == "":
        base = "t-" + content_hash([question, answer])[:12]
        copies[base] = copies.get(base, 0) + 1
        given = base if copies[base] == 1 else f"{base}-{copies[base]}"
    elif isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f"{where}: field {mapping['id']!r} must be a text or a whole number, got {given!r:.40}")
    images = _images(row.get(mapping["images"]), where)
    return Task(id=str(given), question=question, answer=answer, metadata=metadata, images=images)


def _images(value: Any, where: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) and value else value or []
    if not isinstance(given, list) or not all(isinstance(image, str) for image in given):
        raise DataError(f"{where}: images must be addresses or files, got {value!r:.60}")
    folder = Path(where.rsplit(":", 1)[0]).parent
    return tuple(one if re.match(r"https?:|data:", one) else _image_file(folder / one, where) for one in given)


def _image_file(path: Path, where: str) -> str:
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise DataError(f"{where}: {path.name}: no image by its name, expected one such as .png or .jpg")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: image {path}: cannot be read: {error.strerror}") from error
    if len(content) > MOST_IMAGE_BYTES:
        raise DataError(f"{where}: image {path} has {len(content):,} bytes, at most {MOST_IMAGE_BYTES:,} are sent")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _csv_answer(answer: Any) -> Any:
    """CSV knows only texts: an empty one is no answer, and a JSON list or object is what it says."""
    if not isinstance(answer, str) or not answer.strip():
        return None
    if answer.strip()[0] in "[{":
        try:
            return json.loads(answer, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return answer
    return answer

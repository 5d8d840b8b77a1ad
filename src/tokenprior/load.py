"""Load: tasks from files and data sets."""

from __future__ import annotations

import base64
import csv
import io
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprior.errors import ConfigError, DataError, MissingExtra
from tokenprior.task import FIELDS, Task, TaskSet, content_hash

HUB = "hub:"
MOST_IMAGE_BYTES = 20_000_000


def load_tasks(path: str | Path, *, fields: Mapping[str, str] | None = None) -> TaskSet:
    """Read tasks.

    Args:
        path: a `.csv` file with a header line, a `.parquet` file, a data set of the hub as `hub:NAME#SPLIT` or
            `hub:NAME/CONFIG#SPLIT`, or anything else with one JSON object a line. Lines end at `\\n` only.
        fields: which of the row's fields stand for `id`, `question`, `answer`, `metadata` and `images`; those not
            named keep their own name. A dotted name reaches into an object: `reward_model.ground_truth`. A question
            that is a list of chat messages is the last of a user. An image is an address, or a file beside this one.
            Fields of the row that stand for none of them are kept in the metadata. Without an id, a row gets one from
            its content. In CSV an answer that is a JSON list or object is read as such.

    Raises:
        DataError: names the file, the line, and what was expected.
        MissingExtra: Parquet and the hub need the package `datasets`.
        ConfigError: if `fields` names something else than these.
    """
    mapping = dict(zip(FIELDS, FIELDS, strict=True)) | dict(fields or {})
    if unknown := set(mapping) - set(FIELDS):
        raise ConfigError(f"fields maps {sorted(unknown)}, but a task has only {list(FIELDS)}")
    tasks: list[Task] = []
    first_line: dict[str, int] = {}
    copies: dict[str, int] = {}
    for line, row in rows_of(path):
        task = _task(row, mapping, f"{path}:{line}", copies)
        if task.id in first_line:
            raise DataError(f"{path}:{line}: id {task.id!r} was used before, on line {first_line[task.id]}")
        first_line[task.id] = line
        tasks.append(task)
    if not tasks:
        raise DataError(f"{path}: no rows")
    return TaskSet(tasks)


def rows_of(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file or a data set, each with its line, or its number from 1; see `load_tasks`."""
    if str(path).startswith(HUB) or Path(path).suffix.lower() == ".parquet":
        yield from enumerate(_hub_rows(str(path)), start=1)
        return
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    yield from _csv_rows(text, path) if path.suffix.lower() == ".csv" else _jsonl_rows(text, path)


def _hub_rows(name: str) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hf", name) from error
    try:
        if name.startswith(HUB):
            place, _, split = name.removeprefix(HUB).partition("#")
            owner, name_there, config = (*place.split("/", 2), "", "")[:3]
            known = (place, None) if Path(place).is_dir() else (f"{owner}/{name_there}".strip("/"), config or None)
            yield from datasets.load_dataset(*known, split=split or "train")
        else:
            yield from datasets.load_dataset("parquet", data_files=name, split="train")
    except Exception as error:  # its loaders raise of all kinds
        words = " ".join(str(error).split())[:200]
        raise DataError(
            f"{name}: cannot be loaded: {type(error).__name__}: {words} (expected hub:NAME#SPLIT of a data set that "
            "can be reached; or save it as JSONL and name the file)"
        ) from error


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
    question = _spoken(_reached(row, mapping["question"]))
    if not isinstance(question, str) or not question.strip():
        found = "nothing" if question is None else repr(question)[:40]
        raise DataError(
            f"{where}: field {mapping['question']!r} must be a text, got {found}; the row has {sorted(row)[:8]} "
            "(map your field names with `fields`)"
        )
    if mapping["answer"] != "answer" and mapping["answer"].split(".")[0] not in row:
        raise DataError(f"{where}: no field {mapping['answer']!r}; the row has {sorted(row)[:8]}")
    answer = _reached(row, mapping["answer"])
    if where.rsplit(":", 1)[0].lower().endswith(".csv"):
        answer = _csv_answer(answer)
    metadata = _reached(row, mapping["metadata"]) or {}
    if not isinstance(metadata, dict):
        metadata = {mapping["metadata"]: metadata}
    # Metadata is shown to programs and functions, and the answer is not.
    rest = row if mapping["answer"] in row else _without(row, mapping["answer"].split("."))
    metadata = metadata | {key: value for key, value in rest.items() if key not in mapping.values()}
    given = _reached(row, mapping["id"])
    if given is None or given == "":
        base = "t-" + content_hash([question, answer])[:12]
        copies[base] = copies.get(base, 0) + 1
        given = base if copies[base] == 1 else f"{base}-{copies[base]}"
    elif isinstance(given, bool) or not isinstance(given, str | int):
        raise DataError(f"{where}: field {mapping['id']!r} must be a text or a whole number, got {given!r:.40}")
    images = _images(_reached(row, mapping["images"]), where)
    return Task(id=str(given), question=question, answer=answer, metadata=metadata, images=images)


def _reached(row: Mapping[str, Any], name: str) -> Any:
    """The field of a row, or what a dotted name reaches in it; `None` if there is none."""
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _without(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The row without what a dotted name reaches in it."""
    first, *more = names
    inner = row.get(first)
    if not more:
        return {key: value for key, value in row.items() if key != first}
    return {**row, first: _without(inner, more)} if isinstance(inner, Mapping) else dict(row)


def _spoken(question: Any) -> Any:
    """A question that is a chat is what the user says last."""
    if not isinstance(question, list):
        return question
    said = [one.get("content") for one in question if isinstance(one, Mapping) and one.get("role") == "user"]
    return said[-1] if said else question


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

"""Documents: the files of a folder as pages.

Files that end in .txt, .md, .html, .htm and .jsonl count, in folders below too; names that begin with a dot do not. A
page is named `corpus://` and its path; a row of a .jsonl file (`text`, and if there are `title` and `url`) by its url,
or else by its file and line, as `corpus://notes.jsonl#3`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from tokenprior.errors import DataError
from tokenprior.tools.base import ToolFailed
from tokenprior.tools.markdown import need, to_markdown
from tokenprior.tools.pagetext import clean, decode

SUFFIXES = (".txt", ".md", ".html", ".htm", ".jsonl")


def files_of(folder: Path) -> dict[str, Path]:
    """Every document of a folder by its path inside of it, sorted.

    Raises:
        DataError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise DataError(f"corpus: {folder} is no folder")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
    kept = {name: files[name] for name in sorted(files) if not re.search(r"(?:^|/)\.", name)}
    if not kept:
        raise DataError(f"corpus: {folder} holds no document (expected files that end in {', '.join(SUFFIXES)})")
    return kept


def data_of(files: Mapping[str, Path]) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every file.

    Raises:
        DataError: one cannot be read.
    """
    for name, path in files.items():
        try:
            yield name, path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def pages_of(files: Mapping[str, Path]) -> Iterator[tuple[str, str, str]]:
    """URL, title and text of every page, in the order of the files.

    Raises:
        DataError: a file that is no text, a row that is no page.
        MissingExtra: there is HTML, and what turns it into text is not installed.
    """
    for name, data in data_of(files):
        suffix = Path(name).suffix.lower()
        try:
            text = clean(decode(data))
        except ToolFailed as error:
            raise DataError(f"{files[name]}: is no text") from error
        url = "corpus://" + quote(name)
        if suffix == ".jsonl":
            yield from _rows(text, files[name], url)
            continue
        title = ""
        if suffix in (".html", ".htm"):
            need()
            try:
                title, text = to_markdown(text)
            except ToolFailed as error:
                raise DataError(f"{files[name]}: {error}") from error
        if not title and (heading := re.search(r"^#{1,6}[ \t]+(\S.*)$", text, re.MULTILINE)) and suffix != ".txt":
            title = heading[1].strip()
        yield url, title or Path(name).stem, text.strip()


def _rows(text: str, path: Path, url: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataError(f"{path}:{number}: expected an object with a field text, and if there are title and url")
        # JSON can spell control characters and halves of surrogate pairs that its text does not hold.
        named = clean(str(row.get("url") or "")).strip() or f"{url}#{number}"
        yield named, clean(str(row.get("title") or "")).strip() or named, clean(row["text"]).strip()

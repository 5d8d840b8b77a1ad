"""Corpus: a folder of documents in place of the web, behind the same two tools.

Order of events: the files are read and hashed (`Corpus`), an index file of that content is made unless there is one,
every call opens the index for itself, reading only. An index appears whole, under its name, in one step: of two
processes that build at once the later one replaces an equal file.

Ranked by BM25 over words without their English endings; a query is a set of words, and a page that holds any of them is
found. Not covered: scripts that write without spaces (a run of Chinese or Japanese signs is one word).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tokenprior.errors import ConfigError, DataError
from tokenprior.task import Task, content_hash
from tokenprior.tools.base import Tool, ToolFailed, ToolSession, ToolSpec
from tokenprior.tools.documents import data_of, files_of, pages_of
from tokenprior.tools.pagetext import (
    MOST_HITS,
    Hit,
    asked,
    clean,
    listing,
    part,
    read_page_spec,
    search_spec,
)

RULE = 1
_MOST_WORDS = 64
_APPLICATION = 1953459056  # tells an index from any other SQLite file
_SCHEMA = """
PRAGMA application_id = 1953459056;
CREATE TABLE about (content TEXT NOT NULL);
CREATE TABLE pages (id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='pages', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
"""
_SEARCH = """
SELECT pages.title, pages.url, snippet(words, 1, '', '', ' … ', 48)
FROM words JOIN pages ON pages.id = words.rowid
WHERE words MATCH ? ORDER BY bm25(words, 3.0, 1.0), words.rowid LIMIT ?
"""


class Corpus:
    """The documents of a folder, indexed. Making it reads all of them: do so before the loop runs, or in a thread.

    `documents.py` says what counts as a page, and how it is named.

    Args:
        folder: where they are.
        index: file to keep the index in; without it, it goes away with this object.

    Raises:
        ConfigError: SQLite has no FTS5, or the index file cannot be written.
        DataError: no documents, a row that is none, a URL that stands for two pages.
        MissingExtra: there are HTML documents, and what turns them into text is not installed.
    """

    def __init__(self, folder: str | Path, *, index: str | Path | None = None) -> None:
        self._folder = Path(folder)
        files = files_of(self._folder)
        self.content = content_hash([RULE, [(name, hashlib.sha256(data).hexdigest()) for name, data in data_of(files)]])
        if index is None:
            own = tempfile.mkdtemp(prefix="tokenprior-corpus-")
            weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
            index = Path(own) / "index.sqlite"
        self._index = Path(index)
        if self._index.exists() and not _is_index(self._index):
            raise ConfigError(f"corpus: {self._index} is there and is no index of a corpus: name another file")
        if _content_of(self._index) != self.content:
            _build(self._index, files, self.content)

    def search(self, query: str, count: int) -> list[Hit]:
        """At most `count` pages with a word of the query, the best first. Blocks.

        Raises:
            ToolFailed: there is no word in the query.
            DataError: the index became another one.
        """
        match = matching(query)
        with self._opened() as connection:
            return [
                Hit(title=title, url=url, text=text) for title, url, text in connection.execute(_SEARCH, (match, count))
            ]

    def read(self, url: str) -> str:
        """The text of a page. Blocks.

        Raises:
            ToolFailed: there is no such page.
            DataError: the index became another one.
        """
        with self._opened() as connection:
            for spelled in (url, url.partition("#")[0], "corpus://" + quote(unquote(url.removeprefix("corpus://")))):
                if found := connection.execute("SELECT text FROM pages WHERE url = ?", (spelled,)).fetchone():
                    return str(found[0])
        raise ToolFailed(f"{url[:200]}: there is no such page; search gives the URLs that there are")

    def _opened(self) -> closing[sqlite3.Connection]:
        if _content_of(self._index) != self.content:
            raise DataError(f"{self._index}: the documents were changed, or their index was, since this run began")
        return closing(_connected(self._index))


def corpus_tools(
    folder: str | Path, *, index: str | Path | None = None, count: int = 5, page_chars: int = 6_000
) -> tuple[Tool, Tool]:
    """A `search` and a `read_page` over the documents of a folder; to a model they are those of the web.

    Args:
        folder: see `Corpus`.
        index: see `Corpus`.
        count: how many hits where a call does not say; 1 to 20.
        page_chars: most characters of one part of a page; at least 200.

    Raises:
        ConfigError: a setting out of range, and as `Corpus`.
        DataError: as `Corpus`.
    """
    if not 1 <= count <= MOST_HITS:
        raise ConfigError(f"corpus: count is {count}, expected 1 to {MOST_HITS}")
    if page_chars < 200:
        raise ConfigError(f"corpus: page_chars is {page_chars}, expected 200 or more")
    corpus = Corpus(folder, index=index)
    return CorpusSearch(corpus=corpus, count=count), CorpusReadPage(corpus=corpus, page_chars=page_chars)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSearch:
    """Searches a corpus as `Search` does the web."""

    corpus: Corpus
    count: int = 5

    @property
    def spec(self) -> ToolSpec:
        return search_spec(self.count)

    @property
    def fingerprint(self) -> str:
        return content_hash(["corpus search", RULE, self.corpus.content, self.count])

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """See `Tool.session`."""
        return _session(self._call)

    def _call(self, arguments: Mapping[str, Any]) -> str:
        query = asked(arguments["query"])
        count = min(MOST_HITS, max(1, int(arguments.get("count") or self.count)))
        return listing(query, self.corpus.search(query, count))


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReadPage:
    """Reads a page of a corpus as `ReadPage` does one of the web."""

    corpus: Corpus
    page_chars: int = 6_000

    @property
    def spec(self) -> ToolSpec:
        return read_page_spec()

    @property
    def fingerprint(self) -> str:
        return content_hash(["corpus read_page", RULE, self.corpus.content, self.page_chars])

    def session(self, task: Task) -> AbstractAsyncContextManager[ToolSession]:
        """See `Tool.session`."""
        return _session(self._call)

    def _call(self, arguments: Mapping[str, Any]) -> str:
        url = clean(str(arguments["url"])).strip()
        return part(url, self.corpus.read(url), page=int(arguments.get("page") or 1), page_chars=self.page_chars)


class _InThread:
    def __init__(self, work: Callable[[Mapping[str, Any]], str]) -> None:
        self._work = work

    async def call(self, arguments: Mapping[str, Any]) -> str:
        return await asyncio.to_thread(self._work, arguments)


@asynccontextmanager
async def _session(work: Callable[[Mapping[str, Any]], str]) -> AsyncIterator[ToolSession]:
    yield _InThread(work)


def matching(query: str) -> str:
    """Any text as a query of FTS5: its words, each in quotes, at most 64 of them, any of which will do.

    Raises:
        ToolFailed: there are none.
    """
    # Cut at ASCII signs only: FTS5 cuts what stands in quotes further, by the rule it cut the pages by.
    pieces = re.findall(r"[^\s\x00-\x2f:-@\[-`{-\x7f]+", query)
    words = dict.fromkeys(piece for piece in pieces if any(map(str.isalnum, piece)))
    if not words:
        raise ToolFailed("the query has no words")
    return " OR ".join(f'"{word}"' for word in list(words)[:_MOST_WORDS])


def _connected(index: Path) -> sqlite3.Connection:
    # `immutable`: an index never changes, another one takes its name. So nothing is locked or written beside it.
    return sqlite3.connect(f"file:{quote(str(index.absolute()))}?mode=ro&immutable=1", uri=True)


def _is_index(index: Path) -> bool:
    """Whether a file may be replaced by an index: it is one, or it is empty."""
    return index.is_file() and (index.stat().st_size == 0 or _content_of(index) is not None)


def _content_of(index: Path) -> str | None:
    """Which content a file is the index of; `None` if of none."""
    if not index.is_file():
        return None
    try:
        with closing(_connected(index)) as connection:
            if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
                return None
            return str(connection.execute("SELECT content FROM about").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None


def _build(index: Path, files: Mapping[str, Path], content: str) -> None:
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{index.name}.", suffix=".building", dir=index.parent)
        os.close(number)
    except OSError as error:
        raise ConfigError(f"corpus: {index} cannot be written: {error.strerror}") from error
    try:
        with closing(sqlite3.connect(name)) as connection:
            _fill(connection, files, content)
        os.replace(name, index)
    except OSError as error:
        raise ConfigError(f"corpus: {index} cannot be written: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection, files: Mapping[str, Path], content: str) -> None:
    try:
        connection.executescript(_SCHEMA)
    except sqlite3.OperationalError as error:
        raise ConfigError(f"corpus: this Python's SQLite cannot search text: {error}") from error
    with connection:
        connection.execute("INSERT INTO about VALUES (?)", (content,))
        for url, title, text in pages_of(files):
            try:
                connection.execute("INSERT INTO pages (url, title, text) VALUES (?, ?, ?)", (url, title, text))
            except sqlite3.IntegrityError as error:
                raise DataError(f"corpus: {url} stands for two pages: give each a url of its own") from error
        if connection.execute("SELECT count(*) FROM pages").fetchone()[0] == 0:
            raise DataError("corpus: the documents hold no page")
        connection.execute("INSERT INTO words (words) VALUES ('rebuild')")
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")

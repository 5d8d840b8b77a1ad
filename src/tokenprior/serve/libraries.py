"""Libraries that are served: read from a file or a run, and read again when that changes.

A library is swapped in one assignment, so whoever holds the old one goes on with it. A new version that cannot be read
leaves the old one in place. Of a run what is *used* is served: the pinned version, else what ships. Which run a name
means is settled at the start: a newer run of the same name does not take its place unasked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprior.cli.show import is_file, run_and_place
from tokenprior.config import PriorSettings
from tokenprior.errors import ConfigError, DataError, TokenpriorError
from tokenprior.exports import import_library
from tokenprior.library import Library
from tokenprior.prior import Rendering, TokenPrior

if TYPE_CHECKING:
    from tokenprior.store import Store

WATCH_S = 1.0  # between looks for newer versions
NONE = "none"  # the name that stands for no library

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEPT_PRIORS = 256  # chosen for a question, of one version
_LONGEST_KEPT = 4_096  # characters of a question


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """A library as it stands, with what was rendered of it."""

    library: Library
    whole: TokenPrior
    chosen: dict[str, TokenPrior] = field(default_factory=dict)


class ServedLibrary:
    """One library that is served.

    Args:
        name: that clients know it by.
        source: a file, `RUN`, `RUN:STEP` or `RUN:VERSION`.
        store: of the runs; files need none.
        rendering: of a file. A run renders as it learned.

    Raises:
        TokenpriorError: there is no such library, or it cannot be read.
        ConfigError: the name is none, or a run was given a rendering.
    """

    def __init__(
        self, name: str, source: str, store: Store | None = None, *, rendering: Rendering | None = None
    ) -> None:
        if not _NAME.fullmatch(name) or name == NONE:
            raise ConfigError(
                f"library name {name!r}: expected up to 64 letters, digits, '.', '_' or '-', and not {NONE!r}"
            )
        self.name, self.source = name, source
        self._store = store
        self._path = Path(source) if is_file(source) else None
        self._run, self._at = "", None
        self._seen: tuple[int, ...] = ()
        self._trouble = ""
        if self._path is None:
            self._run, self._at, rendering = self._found(rendering)
        self.rendering = rendering or Rendering()
        self._version = self._versioned(self._read_file() if self._path else self._read_run())

    @property
    def library(self) -> Library:
        return self._version.library

    @property
    def version(self) -> str:
        return self._version.library.version

    @property
    def where(self) -> str:
        """The file, or the run's id and the place in it."""
        return self.source if self._path else self._run + ("" if self._at is None else f":{self._at}")

    @property
    def count_words(self) -> str:
        """How many lessons there are, in words."""
        count = len(self.library)
        return "1 lesson" if count == 1 else f"{count} lessons"

    @property
    def whole(self) -> TokenPrior:
        """The prior of all of it, as it stands before a request without a question."""
        return self._version.whole

    def prior_for(self, question: str | None) -> TokenPrior:
        """The prior for a question: rendered once for all of them, unless the rendering chooses by it."""
        version = self._version
        if question is None or self.rendering.relevant is None:
            return version.whole
        prior = version.chosen.get(question)
        if prior is None:
            prior = TokenPrior.of(version.library, self.rendering, question=question)
            if len(question) <= _LONGEST_KEPT:
                if len(version.chosen) >= _KEPT_PRIORS:
                    version.chosen.pop(next(iter(version.chosen)))
                version.chosen[question] = prior
        return prior

    async def refresh(self) -> bool:
        """Look whether there is a newer version, and take it.

        Returns:
            Whether there was one.

        Raises:
            TokenpriorError: it cannot be read. The old one stays, and the same trouble is not told twice.
        """
        try:
            library = await asyncio.to_thread(self._read_run if self._path is None else self._read_if_changed)
        except TokenpriorError as error:
            if str(error) == self._trouble:
                return False
            self._trouble = str(error)
            raise
        if library is None:
            return False
        self._trouble = ""
        if library == self.library:
            return False
        self._version = self._versioned(library)
        return True

    def _versioned(self, library: Library) -> _Version:
        return _Version(library=library, whole=TokenPrior.of(library, self.rendering))

    def _found(self, rendering: Rendering | None) -> tuple[str, int | str | None, Rendering]:
        """The run, which of its versions, and how it learned to render."""
        if self._store is None:
            raise ConfigError(f"{self.source}: no such file; for a run name its store too")
        if rendering is not None:
            raise ConfigError(f"library {self.name!r}: a run renders as it learned, so leave `prior` out")
        run, at = run_and_place(self.source)
        record = self._store.find_run(run)
        learned = PriorSettings.model_validate(record.config.get("learn", {}).get("prior", {}))
        return record.id, at, learned.rendering

    def _read_run(self) -> Library:
        assert self._store is not None
        return self._store.library(self._run, self._at)

    def _read_file(self) -> Library:
        assert self._path is not None
        self._seen = self._stamp()
        return import_library(self._path)

    def _read_if_changed(self) -> Library | None:
        return None if self._stamp() == self._seen else self._read_file()

    def _stamp(self) -> tuple[int, ...]:
        assert self._path is not None
        try:
            found = self._path.stat()
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino


class Libraries:
    """All libraries of a server, and which of them a request wants.

    Args:
        served: the first is the one for requests that want none by name.
        models: by the name of a library, patterns of models that it is for, such as `gpt-5*`.
    """

    def __init__(self, served: Sequence[ServedLibrary], models: Mapping[str, Sequence[str]] | None = None) -> None:
        self.by_name = {library.name: library for library in served}
        if not served or len(self.by_name) != len(served):
            raise ConfigError("expected one library or more, each with a name of its own: NAME=FILE or NAME=RUN")
        self._first = served[0]
        self._patterns = [(pattern, self.by_name[name]) for name, all_ in (models or {}).items() for pattern in all_]

    def named(self, name: str) -> ServedLibrary | None:
        """The library of this name; `None` for `none`.

        Raises:
            KeyError: there is no such library.
        """
        return None if name == NONE else self.by_name[name]

    def split_model(self, model: str) -> tuple[str, str]:
        """A model's name without and the library's name in `MODEL@NAME`; the latter empty if it names none of ours."""
        bare, at, name = model.rpartition("@")
        return (bare, name) if at and (name in self.by_name or name == NONE) else (model, "")

    def for_model(self, model: str) -> ServedLibrary:
        """The library for a model, by the patterns, else the first."""
        return next((library for pattern, library in self._patterns if fnmatchcase(model, pattern)), self._first)

    async def refresh(self, told: Callable[[ServedLibrary, TokenpriorError | None], None]) -> None:
        """Take newer versions, if there are any.

        Args:
            told: called for each library that changed, with the error if the new version cannot be read.
        """
        for library in self.by_name.values():
            try:
                if await library.refresh():
                    told(library, None)
            except TokenpriorError as error:
                told(library, error)

    async def watch(self, told: Callable[[ServedLibrary, TokenpriorError | None], None]) -> None:
        """Take newer versions as they come, for ever; see `refresh`."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self.refresh(told)


def named_source(given: str) -> tuple[str, str]:
    """The name and the source in `NAME=SOURCE`; a bare source has the name of its file or run."""
    name, equals, source = given.partition("=")
    if equals and not Path(given).is_file():
        return name, source
    bare = Path(given).name.split(".")[0] if is_file(given) else given.partition(":")[0]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", bare).strip("-_.")[:64] or "library", given

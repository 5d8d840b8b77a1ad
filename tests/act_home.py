"""A folder with a config, as a user has one, and the two doors to it: the command line and `session`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tokenprior.cli import main
from tokenprior.config import Config, load_config
from tokenprior.library import Library
from tokenprior.store import RunRecord, open_store


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line in which it says what is wrong."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("tokenprior: ")
        return lines[0].removeprefix("tokenprior: ")


def cli(*arguments: str | Path) -> Ended:
    """The command line, as its entry point runs it, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["tokenprior", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ended(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Home:
    """The folder. Without a gate, with few attempts, and no more than one try of a call, unless a test says so."""

    folder: Path
    settings: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def store(self) -> Path:
        return self.folder / "s.db"

    def config(self, **changes: Any) -> Config:
        return load_config(self.file, changes=changes)

    def run(self, kind: str = "learn") -> RunRecord:
        """The newest run of a kind."""
        with open_store(self.store) as store:
            return next(run for run in store.runs() if run.kind == kind)

    def rows(self, table: str, kind: str = "learn") -> list[dict[str, Any]]:
        with open_store(self.store) as store:
            return store.rows(table, self.run(kind).id)

    def library(self) -> Library:
        with open_store(self.store) as store:
            return store.library(self.run().id)


def home(
    folder: Path,
    *,
    tasks: Iterable[Mapping[str, Any]] = (),
    split: Mapping[str, int] | None = None,
    **settings: Any,
) -> Home:
    """Write the folder. Settings of a section that has defaults here are laid over them."""
    base: dict[str, Any] = {
        "name": "run",
        "store": "s.db",
        "verifier": "exact",
        "learn": {"gate": "none", "epochs": 1, "group_size": 2, "inclusion_pairs": 0, "compact": True},
        "endpoint": {"attempts": 2, "backoff_s": 0.01},
    }
    if listed := list(tasks):
        (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in listed))
        base["tasks"] = {"path": "tasks.jsonl"} | ({"split": dict(split)} if split else {})
    for key, value in settings.items():
        known = base.get(key)
        base[key] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    made = Home(folder, base)
    made.file.write_text(yaml.safe_dump(base))
    return made

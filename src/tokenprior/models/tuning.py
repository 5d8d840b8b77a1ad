"""Tuning: how the embedded model is served on this machine, as it was measured or as it comes."""

from __future__ import annotations

import importlib.metadata
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenprior.errors import EmbeddedModelError

SLOTS = 4
FILE = "tuned.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a model is served.

    Attributes:
        slots: prompts answered side by side, 1 or more.
        threads: 1 or more; `None` is as many as there are cores.
        batch: tokens of prompts evaluated in one go, 32 or more; `None` leaves it to llama.cpp.
    """

    slots: int = SLOTS
    threads: int | None = None
    batch: int | None = None

    def __str__(self) -> str:
        threads = "a thread a core" if self.threads is None else f"threads {self.threads}"
        return f"slots {self.slots}, {threads}, batch {'as it comes' if self.batch is None else self.batch}"


def kept_tuning(model: str, folder: Path) -> Tuning | None:
    """What was found best for a model on this machine; `None` if nobody looked, or if cores or xllamacpp have changed
    since.

    Args:
        model: its name in the catalogue.
        folder: where it is kept: beside the models.
    """
    with suppress(OSError, ValueError, LookupError, TypeError):
        kept = _read(folder / FILE)[model]
        if kept["made_on"] == _machine():
            return Tuning(**kept["tuning"])
    return None


def keep_tuning(model: str, tuning: Tuning, folder: Path) -> Path:
    """Keep what was found best; from now on runs use it where the config says nothing else.

    Raises:
        EmbeddedModelError: the file cannot be written.
    """
    file = folder / FILE
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = _read(file)
    kept[model] = {"tuning": asdict(tuning), "made_on": _machine()}
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise EmbeddedModelError(f"{file}: cannot be written: {error.strerror}") from error
    return file


def _read(file: Path) -> dict[str, Any]:
    kept = json.loads(file.read_text(encoding="utf-8"))
    return kept if isinstance(kept, dict) else {}


def _machine() -> dict[str, Any]:
    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return {"cores": os.cpu_count(), "xllamacpp": version}

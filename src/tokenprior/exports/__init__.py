"""Exports: a library as something to take away, and back. One file a format; `export` and `import_library` pick one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenprior.errors import ConfigError, DataError
from tokenprior.exports import chat, flat, reference, text
from tokenprior.library import Library
from tokenprior.text import shorten

FORMATS: dict[str, Callable[[Library], str]] = {
    "text": text.dumps,
    "json": Library.dumps,
    "chat": chat.dumps,
    "flat": flat.dumps,
    "reference": reference.dumps,
}


def export(library: Library, form: str = "text") -> str:
    """A library as text.

    Args:
        form: `text` (the prior as the agent sees it), `json` (everything, provenance too), `chat` (messages of the chat
            API), `flat` (the reference's `{"G0": "..."}`), `reference` (the reference's agent YAML).

    Raises:
        ConfigError: there is no such form.
    """
    if form not in FORMATS:
        raise ConfigError(f"no export form {form!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[form](library)


def import_library(source: str | Path) -> Library:
    """Read a library: our JSON, the reference's flat JSON, or the reference's agent YAML, told apart by content.

    Raises:
        DataError: it is none of them.
    """
    path = Path(source)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    name = f"import:{path.name}"
    try:
        if content.lstrip().startswith("{"):
            value = json.loads(content)
            if isinstance(value, dict) and "experiences" in value:
                return Library.from_json(value)
            return flat.loads(value, run=name)
        return reference.loads(content, run=name)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a library: {shorten(error)}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

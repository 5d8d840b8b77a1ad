"""tokenprior export, tokenprior import"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing, is_file, library_of, run_and_place

if TYPE_CHECKING:
    from tokenprior.library import Library
    from tokenprior.private import PrivatePolicy

MOST_NOTES = 20


def export(
    what: Annotated[
        str, typer.Argument(help="A run, a step of it (RUN:0), a version of it (RUN:1a2b), or a library file.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--form",
            help="text, json, markdown, chat, system, section, cursor, skill, dspy, gepa, ace, flat or reference.",
        ),
    ] = "text",
    to: Annotated[Path | None, typer.Option(help="A file; standard output by default.")] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="A file to merge into, in place unless --to names another: a prompt (system), AGENTS.md or CLAUDE.md "
            "(section), a rule (cursor), a SKILL.md (skill), a program state (dspy), a candidate (gepa)."
        ),
    ] = None,
    instructions: Annotated[
        str, typer.Option(help="Your own prompt, which the lessons follow: for chat, system, dspy and gepa.")
    ] = "",
    name: Annotated[str, typer.Option(help="What a skill is called; its folder's name by default.")] = "",
    private: Annotated[
        str, typer.Option(help="What becomes of keys and personal data in lessons: refuse, mask or keep.")
    ] = "refuse",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a library as a prompt, a file of a coding agent, a program state, and more; see docs/exports.md."""
    from tokenprior.errors import DataError
    from tokenprior.exports import SECTIONS, let_out
    from tokenprior.exports import export as export_library
    from tokenprior.text import many

    library = let_out(_measured(what, store), cast("PrivatePolicy", private))
    target = to or into
    before = _text_of(into) if into else None
    if into and before is None and form not in SECTIONS:
        raise DataError(f"{into}: no such file to merge into")
    folder = target.absolute().parent if target and form == "skill" and before is None else None
    if folder:
        name = name or folder.name
    try:
        text = export_library(library, form, into=before, instructions=instructions, name=name, private="keep")
    except DataError as error:
        raise DataError(f"{into}: {error}" if into else str(error)) from error
    if not target:
        print(text, end="")
        return
    if form in SECTIONS and before is None:  # they have a place of their own, such as `.cursor/rules`
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text)
    if into:
        done = "written" if before is None else "is up to date" if text == before and target == into else "updated"
        print(f"{target}: {done}, {many(len(library), 'lesson')}, library {library.version}")


def import_(
    source: Annotated[Path, typer.Argument(help="A file in any form that `tokenprior export` writes.")],
    to: Annotated[Path, typer.Option(help="The library file to write, as our JSON.")],
    form: Annotated[str | None, typer.Option("--form", help="Its form; told by its content by default.")] = None,
) -> None:
    """Read a library in any known format and write it as our JSON, for --start and --arm."""
    from tokenprior.exports import read
    from tokenprior.text import many

    reading = read(source, form)
    write_whole(to, reading.library.dumps())
    print(f"{to}: {many(len(reading.library), 'experience')}, library {reading.library.version}")
    for note in reading.notes[:MOST_NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if len(reading.notes) > MOST_NOTES:
        print(f"note: and {len(reading.notes) - MOST_NOTES} more of the kind", file=sys.stderr)


def _measured(what: str, store: str) -> Library:
    """A library with what was measured last of its words: what ships does not hear of what is measured after it."""
    from tokenprior.store import open_store
    from tokenprior.store.life import effects_of

    library = library_of(what, store)
    if is_file(what):
        return library
    with open_store(existing(store)) as opened:
        known = effects_of(opened.rows("steps", opened.find_run(run_and_place(what)[0]).id))
    return library.with_effects({e.id: known[e.id, e.line] for e in library if (e.id, e.line) in known})


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, byte for byte. A link stays one, and a file keeps its permissions.

    Raises:
        OSError: it cannot be written; `filename` is the path that was given.
    """
    real = path.resolve()
    is_file = path.is_file() and path.absolute().parts[1] not in ("dev", "proc")
    if path.exists() and not is_file:  # what is open already, a device or a pipe, cannot be replaced
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        return
    beside = real.with_name(f".{real.name[:200]}.{os.getpid()}.tmp")
    try:
        if real.exists() and not os.access(real, os.W_OK):
            raise PermissionError(13, "Permission denied")
        try:
            with beside.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if real.exists():
                shutil.copymode(real, beside)
            beside.replace(real)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _text_of(path: Path) -> str | None:
    """What a file holds, its line ends and byte order mark as they are; `None` if there is none."""
    from tokenprior.errors import DataError

    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error

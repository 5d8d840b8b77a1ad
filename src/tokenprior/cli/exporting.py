"""tokenprior export, tokenprior import"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, library_of


def export(
    what: Annotated[
        str, typer.Argument(help="A run, a step of it (RUN:0), a version of it (RUN:1a2b), or a library file.")
    ],
    form: Annotated[str, typer.Option("--form", help="text, json, chat, flat or reference.")] = "text",
    to: Annotated[Path | None, typer.Option(help="A file; standard output by default.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a library as plain text, JSON, chat messages, or in the reference's formats."""
    from tokenprior.exports import export as export_library

    text = export_library(library_of(what, store), form)
    if to:
        to.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def import_(
    source: Annotated[Path, typer.Argument(help="Our JSON, the reference's flat JSON, or its agent YAML.")],
    to: Annotated[Path, typer.Option(help="The library file to write, as our JSON.")],
) -> None:
    """Read a library in any known format and write it as our JSON, for --start and --arm."""
    from tokenprior.exports import import_library

    library = import_library(source)
    to.write_text(library.dumps(), encoding="utf-8")
    print(f"{to}: {len(library)} experiences, library {library.version}")

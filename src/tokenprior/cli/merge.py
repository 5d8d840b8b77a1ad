"""tokenprior merge"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tokenprior.cli.exporting import write_whole
from tokenprior.cli.show import DEFAULT_STORE, StoreOption, is_file, library_of

if TYPE_CHECKING:
    from tokenprior.library import Library
    from tokenprior.merge import Merged
    from tokenprior.private import PrivatePolicy


class Prefer(StrEnum):
    """Which side of a conflict stays."""

    FIRST = "first"
    EFFECT = "effect"


def merge(
    libraries: Annotated[
        list[str],
        typer.Argument(
            metavar="LIBRARY...",
            help="Two or more: a run, a step of it (RUN:0), a version of it (RUN:1a2b), or a library file.",
        ),
    ],
    to: Annotated[Path, typer.Option(help="The library file to write, as our JSON.")],
    prefer: Annotated[
        Prefer | None,
        typer.Option(
            help="Which side of a conflict stays: of the library named first, or of the larger effect. Both by default."
        ),
    ] = None,
    max_experiences: Annotated[int | None, typer.Option(min=1, help="The most lessons; 50 by default.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of them; 2000 by default.")] = None,
    private: Annotated[
        str, typer.Option(help="What becomes of keys and personal data in lessons: refuse, mask or keep.")
    ] = "refuse",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write conflicts and what was left out to this file.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Join libraries of several runs or teams: same lessons become one; other advice under one condition is named."""
    import json

    from tokenprior.errors import ConfigError
    from tokenprior.library import Bounds
    from tokenprior.merge import merge as merge_libraries
    from tokenprior.text import many

    if len(libraries) < 2:
        raise ConfigError(f"merge {libraries[0]}: expected two libraries or more")
    usual = Bounds()
    bounds = Bounds(max_experiences=max_experiences or usual.max_experiences, max_tokens=max_tokens or usual.max_tokens)
    named = [_let_in(what, store, cast("PrivatePolicy", private)) for what in libraries]
    merged = merge_libraries(named, bounds=bounds, prefer=prefer.value if prefer else None)
    write_whole(to, merged.library.dumps())
    if json_file:
        write_whole(json_file, json.dumps(merged.to_json(), indent=1, ensure_ascii=False) + "\n")
    for line in _lines(merged):
        print(line, file=sys.stderr)
    total, kept = sum(len(library) for _, library in named), len(merged.library)
    out = total - merged.same - kept
    less = [f"{merged.same} said the same as another"] if merged.same else []
    less += [f"{out} left out"] if out else []
    of = f" (of {total} given: {', '.join(less)})" if less else ""
    print(f"{to}: {many(kept, 'lesson')}{of}, library {merged.library.version}")


def _let_in(what: str, store: str, policy: PrivatePolicy) -> tuple[str, Library]:
    """A library with its name, as the policy lets it out of where it was."""
    from tokenprior.errors import DataError
    from tokenprior.exports import let_out

    # What a lesson came from goes into the library: a file by its name, not by where it lies on this machine.
    name = Path(what).name if is_file(what) else what
    try:
        return name, let_out(library_of(what, store), policy)
    except DataError as error:
        raise DataError(f"{what}: {str(error).removeprefix(f'{what}: ')}") from error


def _lines(merged: Merged) -> list[str]:
    """What a reader should look at."""
    lines = []
    for conflict in merged.conflicts:
        first, second = conflict.first, conflict.second
        both = f"both stay, as {first.id} and {second.id}" if first.id and second.id else "not both stay"
        lines.append(f"conflict: {both}")
        lines += [f"  {', '.join(side.origins)}: {side.line}" for side in (first, second)]
    lines += [f"left out: {', '.join(one.entry.origins)}: {one.entry.line}\n  {one.reason}" for one in merged.left]
    return lines

"""tokenprior init"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    data: Annotated[Path, typer.Argument(help="Your tasks: JSONL or CSV.")],
    to: Annotated[Path, typer.Option(help="The config to write.")] = Path("tokenprior.yaml"),
) -> None:
    """Write a commented config for your data."""
    from tokenprior.draft import draft_for
    from tokenprior.errors import ConfigError
    from tokenprior.text import many

    if to.exists():
        raise ConfigError(f"{to}: is there already; choose another name with --to")
    draft = draft_for(data, to.parent)
    to.write_text(draft.text(to.name), encoding="utf-8")
    parts = f"{draft.practice} to practise on, {draft.gate} for the gate, {draft.held_out} held out"
    print(f"{to}: {many(draft.tasks, 'task')}, {parts}")
    if not draft.gate:
        print("  (too few tasks for a gate: whatever is learned will ship; `compare` says whether it helps)")
    print(f"Look it over, then:  tokenprior learn {to} --dry-run")

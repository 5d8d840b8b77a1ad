"""tokenprior evaluate, tokenprior compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenprior.evaluate import Comparison


def evaluate(
    config: Annotated[Path, typer.Argument(help="A YAML config.")],
    library: Annotated[
        Path | None, typer.Option(help="A library file; the one this config learned by default.")
    ] = None,
) -> None:
    """Score a library on the held-out tasks, beside no prior at all: `compare` with one arm."""
    compare(config, arm=[f"library={library}"] if library else [], json_file=None)


def compare(
    config: Annotated[Path, typer.Argument(help="A YAML config.")],
    arm: Annotated[list[str], typer.Option(help="NAME=FILE, a library to compare; may be given several times.")] = [],  # noqa: B006  # typer copies it
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole comparison to this file.")] = None,
) -> None:
    """Compare libraries with no prior on the held-out tasks, paired by task, with intervals."""
    import asyncio
    import json
    import sys

    from tokenprior.cli.live import Live
    from tokenprior.config import load_config
    from tokenprior.errors import ConfigError
    from tokenprior.exports import import_library
    from tokenprior.session import session

    loaded = load_config(config)
    arms = {}
    for one in arm:
        name, equals, file = one.partition("=")
        if not equals or not name or not file:
            raise ConfigError(f"--arm {one!r}: expected NAME=FILE")
        if name in arms:
            raise ConfigError(f"--arm {one!r}: there is another arm {name!r}")
        arms[name] = import_library(file)

    async def run() -> Comparison:
        with Live() as live:
            async with session(loaded, on_progress=live.progress, on_pull=live.pulled) as opened:
                if not arms:
                    record = opened.store.find_run(opened.learning_run)
                    if record.state != "done":
                        print(f"note: run {record.id} is {record.state}; this is its library so far", file=sys.stderr)
                    arms["learned"] = opened.store.library(record.id)
                return await opened.compare(arms)

    made = asyncio.run(run())
    print_comparison(made)
    if json_file:
        json_file.write_text(json.dumps(made.to_json(), indent=1) + "\n", encoding="utf-8")


def print_comparison(made: Comparison) -> None:
    """A table of the arms, then a sentence for each difference."""
    from rich.console import Console
    from rich.table import Table

    from tokenprior.cli.live import money

    table = Table(box=None, pad_edge=False)
    titles = ("arm", "score [95%]", "tasks", "unscored", "failed", "cut off", "tokens in/out", "cost", "s/attempt")
    for title in titles:
        table.add_column(title, justify="left" if title == "arm" else "right", no_wrap=True)
    for arm in made.arms:
        table.add_row(
            f"{arm.arm} ({arm.experiences})",
            str(arm.score) if arm.score else "-",
            f"{arm.score.n if arm.score else 0}/{len(arm.tasks)}",
            str(arm.unscored),
            str(sum(arm.failed.values())),
            str(arm.cut_off),
            f"{arm.usage.input_tokens}/{arm.usage.output_tokens}",
            money(arm.usage),
            f"{arm.latency_s:.1f}",
        )
    # A table in a pipe must not be cut to 80 columns.
    console = Console(highlight=False)
    console.print(table) if console.is_terminal else Console(highlight=False, width=200).print(table)
    if made.constant:
        answer, share = made.constant
        print(f"best constant answer: {answer[:60]!r} would score {share:.3f}")
    for difference in made.differences:
        print(difference.verdict)

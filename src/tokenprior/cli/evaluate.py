"""tokenprior evaluate, tokenprior compare"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprior.cli.live_effect import compare_live
from tokenprior.cli.setting import Set
from tokenprior.cli.show import DEFAULT_STORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from tokenprior.cli.transfer import Column
    from tokenprior.comparison import Comparison
    from tokenprior.config import Config
    from tokenprior.library import Library
    from tokenprior.session import Session
    from tokenprior.store import RunRecord


class Control(StrEnum):
    """Arms that are made in the likeness of a library."""

    PLACEBO = "placebo"
    SHUFFLED = "shuffled"
    TIPS = "tips"


def evaluate(
    config: Annotated[Path, typer.Argument(help="A YAML config.")],
    library: Annotated[
        Path | None, typer.Option(help="A library file; the one this config learned by default.")
    ] = None,
    changes: Set = None,
) -> None:
    """Score a library on the held-out tasks, beside no prior at all: `compare` with one arm."""
    compare([config], arm=[f"library={library}"] if library else [], changes=changes)


def compare(
    config: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A YAML config, or several; with --live names that libraries are served under, all by default."
        ),
    ] = None,
    arm: Annotated[
        list[str],
        typer.Option(
            help="NAME=FILE, NAME=RUN[:STEP] or NAME=RUN:VERSION, a library to compare; may be given several times. "
            "The one this config learned by default. A run is looked for in the stores of the configs, in their order."
        ),
    ] = [],  # noqa: B006  # typer copies it
    control: Annotated[
        list[Control],
        typer.Option(
            help="One more arm in the likeness of the first: lessons of other domains, its words shuffled, or lessons "
            "that the learning model writes with no rollouts; may be given several times."
        ),
    ] = [],  # noqa: B006
    model: Annotated[
        list[str],
        typer.Option(help="A model in the place of the agent's own; may be given several times, to compare on each."),
    ] = [],  # noqa: B006
    k: Annotated[int | None, typer.Option("--k", min=1, help="Attempts for each task and arm.")] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop once it is clear for every arm whether it helps or hurts.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole comparison to this file.")] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", help="Write it as one page for a browser; of several, each beside it with its number."),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="What served libraries do, from the rewards of requests with and without.")
    ] = False,
    store: Annotated[
        str | None, typer.Option("--store", help="With --live: the store that requests were recorded in.")
    ] = None,
    changes: Set = None,
) -> None:
    """Compare libraries with no prior on the held-out tasks, paired by task, with intervals.

    With several configs, or models, each is a comparison of its own, and a table shows where which library helps; see
    docs/transfer.md.
    """
    import asyncio
    import json

    from tokenprior.cli.transfer import columns
    from tokenprior.errors import ConfigError
    from tokenprior.exports.page import comparison_page

    if live:
        if arm or control or model or k or stop_early or html_file or changes:
            raise ConfigError("--live: reads what was recorded; of the options it takes only --store and --json")
        compare_live([str(name) for name in config or ()], store=store or DEFAULT_STORE, json_file=json_file)
        return
    if store:
        raise ConfigError("--store goes with --live; otherwise the config names its store")
    if not config:
        raise ConfigError("expected a YAML config, or --live for libraries that are served")
    evaluation = ({"k": k} if k else {}) | ({"stop_early": True} if stop_early else {})
    every = columns(config, model, changes, evaluation)
    reports = asyncio.run(_compared(every, _arms(arm, [column.config.store for column in every]), control))
    if json_file:
        several = {"format": "tokenprior-transfer-1", "comparisons": reports}
        json_file.write_text(json.dumps(reports[0] if len(every) == 1 else several, indent=1) + "\n", encoding="utf-8")
    for number, report in enumerate(reports if html_file else [], start=1):
        assert html_file is not None, "asked above"
        page = html_file if len(every) == 1 else html_file.with_stem(f"{html_file.stem}-{number}")
        page.write_text(comparison_page(report), encoding="utf-8")


async def _compared(
    columns: Sequence[Column], arms: Mapping[str, Library], controls: Sequence[Control]
) -> list[dict[str, Any]]:
    """Run and print each comparison, and give the reports. Of several none begins before all of them can."""
    from tokenprior.cli.live import Live
    from tokenprior.cli.transfer import print_transfer
    from tokenprior.session import session

    ready: dict[str, Mapping[str, Library]] = {}
    for column in columns if len(columns) > 1 else ():
        async with session(column.config) as opened:
            ready[column.name] = arms or await _own_arms(opened, column)
            await opened.check_compare(ready[column.name], controls=[control.value for control in controls])
    made: dict[str, Comparison] = {}
    reports: list[dict[str, Any]] = []
    for column in columns:
        with Live() as live:
            async with session(column.config, on_progress=live.progress, on_pull=live.pulled) as opened:
                libraries = ready.get(column.name) or arms or await _own_arms(opened, column)
                comparison = await opened.compare(libraries, controls=[control.value for control in controls])
        if len(columns) > 1:
            print(f"{column.name}:")
        print_comparison(comparison)
        if len(columns) > 1:
            print()
        made[column.name] = comparison
        reports.append(comparison.to_json() | {"made": _circumstances(column.config)})
    if len(columns) > 1:
        print_transfer(made)
    return reports


async def _own_arms(opened: Session, column: Column) -> dict[str, Library]:
    """What the column's config learned, as it is written."""
    from tokenprior.session import session

    if column.config.agent.model == column.learned_by.agent.model:
        return _learned_library(opened)
    async with session(column.learned_by) as written:
        return _learned_library(written)


def _learned_library(opened: Session) -> dict[str, Library]:
    import sys

    record = _learned(opened)
    if record.state != "done":
        print(f"note: run {record.id} is {record.state}; this is its library so far", file=sys.stderr)
    library = opened.store.library(record.id)
    ends = opened.store.rows("steps", record.id)
    waiting = ends[-1]["library_version"] if ends else ""
    if ends and not len(library) and waiting != library.version:
        print(
            f"note: nothing was proven yet, so no lesson is in use; for those that wait add "
            f"--arm waiting={record.id}:{waiting}",
            file=sys.stderr,
        )
    return {"learned": library}


def _learned(opened: Session) -> RunRecord:
    """The run of this config."""
    from tokenprior.errors import NotFound

    try:
        return opened.store.find_run(opened.learning_run)
    except NotFound as missing:
        name = opened.config.name
        others = [run.id for run in opened.store.runs() if run.name == name and run.kind == "learn"]
        if not others:
            raise
        raise NotFound(
            f"this config has not learned yet: a setting changed since run {others[0]}. Learn again (what did not "
            f"change is not paid for again), or name --arm learned={others[0]}"
        ) from missing


def _arms(given: Sequence[str], stores: Sequence[str]) -> dict[str, Library]:
    from tokenprior.errors import ConfigError

    arms: dict[str, Library] = {}
    for one in given:
        name, equals, what = one.partition("=")
        if not equals or not name or not what:
            raise ConfigError(f"--arm {one!r}: expected NAME=FILE, NAME=RUN[:STEP] or NAME=RUN:VERSION")
        if name in arms:
            raise ConfigError(f"--arm {one!r}: there is another arm {name!r}")
        arms[name] = _library_in(what, list(dict.fromkeys(stores)))
    return arms


def _library_in(what: str, stores: Sequence[str]) -> Library:
    """A library by its name, in the first store that has it."""
    from tokenprior.cli.show import library_of
    from tokenprior.errors import NotFound

    if len(stores) == 1:
        return library_of(what, stores[0])
    for store in stores:
        try:
            return library_of(what, store)
        except NotFound:
            continue
    raise NotFound(f"{what}: expected a library file, or a run in one of the stores {', '.join(stores)}")


def _circumstances(config: Config) -> dict[str, Any]:
    """What a reader of the report may want to know beside its figures."""
    import platform
    from datetime import UTC, datetime

    from tokenprior import __version__
    from tokenprior.redact import redact

    return {
        "name": config.name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": redact(config.agent.model or config.agent.kind),
        "temperature": config.evaluate.temperature,
        "verifier": config.verifier.get("kind", ""),
        "tokenprior": __version__,
        "python": platform.python_version(),
    }


def print_comparison(made: Comparison) -> None:
    """A table of the arms, then a sentence for each difference."""
    from rich.table import Table

    from tokenprior.cli.live import money

    best_of = max((j for arm in made.arms for j in arm.passes), default=0)
    table = Table(box=None, pad_edge=False)
    passes = (f"pass@{best_of}",) if best_of else ()
    titles = ("arm", "score [95%]", *passes, "tasks", "unscored", "failed", "cut off", "tokens in/out", "cost")
    for title in (*titles, "s/attempt"):
        table.add_column(title, justify="left" if title == "arm" else "right", no_wrap=True)
    for arm in made.arms:
        passed = arm.passes.get(best_of)
        table.add_row(
            f"{arm.arm} ({arm.experiences})",
            str(arm.score) if arm.score else "-",
            *((f"{passed.mean:.3f}" if passed else "-",) if best_of else ()),
            f"{arm.score.n if arm.score else 0}/{len(arm.tasks)}",
            str(arm.unscored),
            str(sum(arm.failed.values())),
            str(arm.cut_off),
            f"{arm.usage.input_tokens}/{arm.usage.output_tokens}",
            money(arm.usage),
            f"{arm.latency_s:.1f}",
        )
    print_table(table)
    if made.constant:
        answer, share = made.constant
        print(f"best constant answer: {answer[:60]!r} would score {share:.3f}")
    for difference in made.differences:
        print(difference.verdict)


def print_table(table: Table) -> None:
    """Print a table, in a pipe with all its columns: not cut to 80 characters."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    console.print(table) if console.is_terminal else Console(highlight=False, markup=False, width=1_000).print(table)

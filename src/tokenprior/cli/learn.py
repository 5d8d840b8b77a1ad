"""tokenprior learn"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def learn(
    config: Annotated[Path, typer.Argument(help="A YAML config; `tokenprior init` writes one.")],
    start: Annotated[Path | None, typer.Option(help="A library to begin with (JSON, or the reference's YAML).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it may take at most, and stop.")] = False,
) -> None:
    """Learn an experience library from groups of attempts. The same command goes on where it stopped."""
    import asyncio

    from tokenprior.cli.live import Live, money, tokens
    from tokenprior.config import load_config
    from tokenprior.exports import import_library
    from tokenprior.learn import LearnResult
    from tokenprior.session import read_tasks, session

    loaded = load_config(config)
    begin = import_library(start) if start else None
    if dry_run:
        from tokenprior.forecast import forecast

        practice = read_tasks(loaded).practice
        most = forecast(loaded, practice)
        print(
            f"{len(practice)} practice tasks: {most.rollouts} rollouts and at most {most.learning_calls} learning calls"
        )
        print(f"at most {tokens(most.usage)}, {money(most.usage)}; nothing was called")
        return

    async def run() -> tuple[str, LearnResult]:
        with Live() as live:
            async with session(loaded, on_progress=live.progress, on_pull=live.pulled) as opened:
                return opened.run_of(begin), await opened.learn(start=begin)

    name, result = asyncio.run(run())
    report(name, result)
    print(f"look: tokenprior show {name} operations --store {loaded.store}   (or library, groups, TASK#INDEX)")
    if start:
        print(f"next: tokenprior export {name} --form json --to learned.json --store {loaded.store}")
        print(f"      tokenprior compare {config} --arm learned=learned.json")
    else:
        print(f"next: tokenprior compare {config}   (is it worth anything on held-out tasks?)")
    if result.stopped:
        print(f"Stopped: {result.stopped}. The library is that of the last finished step; raise the budget to go on.")
        raise typer.Exit(3)


def report(run: str, result: object) -> None:
    """What was learned, in plain lines."""
    from tokenprior.learn import LearnResult

    assert isinstance(result, LearnResult)
    for step in result.steps:
        groups = ", ".join(f"{count} {kind}" for kind, count in step["groups"].items())
        mean = "-" if step["mean"] is None else f"{step['mean']:.3f}"
        print(
            f"step {step['step'] + 1}: mean reward {mean} over {step['scored']} attempts"
            f" ({step['unscored']} unscored, {sum(step['failed'].values())} failed); groups: {groups};"
            f" {step['lessons']} lessons -> {step['experiences']} experiences"
        )
        for title, counts in (("refused", step["refused"]), ("dropped", step["drops"])):
            for reason, count in counts.items():
                print(f"    {title} {count}: {reason}")
    print()
    if not len(result.library):
        print("Nothing was learned: the library is empty.")
    for experience in result.library:
        print(f"[{experience.id}] {experience.line}   (from {experience.support} groups)")
    print(f"\nrun {run}, library {result.library.version}")

"""tokenprior audit"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprior.cli.setting import Set, configured


def audit(
    config: Annotated[Path, typer.Argument(help="A YAML config.")],
    library: Annotated[
        str | None, typer.Option(help="FILE, RUN or RUN:STEP; the library this config uses by default.")
    ] = None,
    rollouts: Annotated[int, typer.Option(min=2, help="The most attempts to spend.")] = 200,
    to: Annotated[Path | None, typer.Option(help="Write the library with its effects, as JSON, to this file.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave out of that file what hurts.")] = False,
    changes: Set = None,
) -> None:
    """Measure what each lesson of a library does, on the gate tasks, or on the practice tasks if there are none."""
    import asyncio

    from tokenprior.audit import Audit
    from tokenprior.cli.live import Live
    from tokenprior.cli.show import library_of
    from tokenprior.errors import ConfigError
    from tokenprior.session import session

    if drop and to is None:
        raise ConfigError("--drop: there is no file to leave lessons out of: name one with --to")
    loaded = configured(config, changes)
    given = library_of(library, loaded.store) if library else None

    async def run() -> tuple[Audit, bool]:
        with Live() as live:
            async with session(loaded, on_progress=live.progress, on_pull=live.pulled) as opened:
                found = given
                if found is None:
                    found = opened.store.library(opened.store.find_run(opened.learning_run).id)
                return await opened.audit(found, rollouts=rollouts), bool(opened.split.gate)

    made, out_of_sample = asyncio.run(run())
    for experience in made.library:
        effect = experience.effect
        said = f"{effect}{_meaning(effect.low, effect.high)}" if effect else "not told from the others yet"
        print(f"[{experience.id}] {experience.line}\n      effect {said}")
    print(
        f"\n{made.rollouts} attempts on the {'gate' if out_of_sample else 'practice'} tasks, {made.unscored} unscored"
    )
    if out_of_sample:
        print("A library that shipped was chosen on these tasks: that flatters it as a whole. `compare` judges it.")
    else:
        print("The lessons were drawn from these tasks, so their effects are flattered: set tasks.split.gate.")
    open_ones = [e.id for e in made.library if e.effect is None or e.effect.low <= 0 <= e.effect.high]
    if open_ones:
        print(f"Not enough evidence for {', '.join(open_ones)}: the same command with more --rollouts goes on.")
    if to is not None:
        from tokenprior.cli.exporting import write_whole
        from tokenprior.text import many

        kept = [e.id for e in made.library if not (drop and e.effect and e.effect.hurts)]
        write_whole(to, made.library.only(kept).dumps())
        print(f"{to}: {len(kept)} of {many(len(made.library), 'lesson')}")


def _meaning(low: float, high: float) -> str:
    return ": it helps" if low > 0 else ": it hurts" if high < 0 else ""

"""tokenprior compare --live"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenprior.cli.show import existing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenprior.live_effect import LiveArm, LiveEffect


def compare_live(libraries: Sequence[str], *, store: str, json_file: Path | None) -> None:
    """Print what served libraries do where they are served: one row for each version and arm, then a sentence each.

    Args:
        libraries: the names they are served under; all by default.
    """
    import json

    from tokenprior.store import open_store
    from tokenprior.store.served import effects_in

    with open_store(existing(store)) as opened:
        effects = effects_in(opened, libraries)
    if not effects:
        print("nothing was recorded yet: tokenprior serve LIBRARY --upstream URL --holdout 0.1")
    else:
        _print_table(effects)
    for effect in effects:
        print(effect.verdict)
    if json_file:
        made = {"format": "tokenprior-live-1", "effects": [effect.to_json() for effect in effects]}
        json_file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def _print_table(effects: Sequence[LiveEffect]) -> None:
    from rich.table import Table

    from tokenprior.cli.evaluate import print_table

    table = Table(box=None, pad_edge=False)
    titles = ("library", "version", "arm", "reward [95%]", "units", "rewarded", "requests", "failed", "went away")
    for title in (*titles, "tokens in/out"):
        table.add_column(title, justify="left" if title in titles[:3] else "right", no_wrap=True)
    for effect in effects:
        # Rewards of several versions, each of a time of its own, have no mean that says anything.
        if effect.version:
            table.add_row(effect.library, effect.version, "with prior", *_figures(effect.served))
            table.add_row("", "", "held out", *_figures(effect.held_out))
    print_table(table)


def _figures(arm: LiveArm) -> tuple[str, ...]:
    reward = arm.reward
    if reward is None:
        said = "-"
    elif reward.low is None or reward.high is None:
        said = f"{reward.mean:.3f}"
    else:
        said = str(reward)
    share = "" if arm.rewarded_share is None else f" ({arm.rewarded_share:.0%})"
    return (
        said,
        f"{arm.units:,}",
        f"{arm.rewarded:,}{share}",
        f"{arm.requests:,}",
        f"{arm.failed:,}",
        f"{arm.left:,}",
        f"{arm.input_tokens}/{arm.output_tokens}",
    )

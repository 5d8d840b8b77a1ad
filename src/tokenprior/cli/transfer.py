"""tokenprior compare with several configs or models: one comparison each, side by side as in the paper's cross-domain
table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprior.cli.setting import configured

if TYPE_CHECKING:
    from tokenprior.comparison import Comparison
    from tokenprior.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One comparison of several.

    Attributes:
        name: of its config, and of its model where models are given.
        config: what is run.
        learned_by: the config as it is written, whose library is the arm where none is named.
    """

    name: str
    config: Config
    learned_by: Config


def columns(
    paths: Sequence[Path], models: Sequence[str], changes: list[str] | None, evaluation: Mapping[str, Any]
) -> list[Column]:
    """Each config, and each with each model in the place of its agent's, in their order.

    Another model changes the agent alone: who judges, and who writes lessons, stays.

    Args:
        evaluation: what stands in the place of the config's `evaluate`.

    Raises:
        ConfigError: a config is wrong, its agent names no model that could be replaced, or one column is given twice.
    """
    from tokenprior.errors import ConfigError
    from tokenprior.redact import redact

    made: list[Column] = []
    for path in paths:
        written = configured(path, changes)
        written = written.model_copy(update={"evaluate": written.evaluate.model_copy(update=dict(evaluation))})
        if models and written.agent.model is None:
            raise ConfigError(f"{path}: --model takes the place of agent.model, and this agent names none")
        for model in models or [""]:
            config = written
            if model:
                agent = written.agent.model_copy(update={"model": model})
                config = written.model_copy(update={"agent": agent, "learner": written.learning_model})
            name = path.stem if [one.stem for one in paths].count(path.stem) == 1 else str(path)
            made.append(Column(name=f"{name}, {redact(model)}" if model else name, config=config, learned_by=written))
    names = [column.name for column in made]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is named twice: it would be one column of the table twice")
    return made


def print_transfer(made: Mapping[str, Comparison]) -> None:
    """One table: a row for each arm, a column for each comparison, and what the arm gains there."""
    from rich.table import Table

    from tokenprior.cli.evaluate import print_table
    from tokenprior.comparison import LEVEL

    table = Table(box=None, pad_edge=False)
    for title in ("arm", *made):
        table.add_column(title)
    arms = list(dict.fromkeys(arm.arm for one in made.values() for arm in one.arms))
    for arm in arms:
        table.add_row(arm, *(_cell(one, arm) for one in made.values()))
    print_table(table)
    print(
        f"The first row is scores, the others are gains over it. Each column is a comparison of its own, with a chance "
        f"of {LEVEL:.0%} of a wrong verdict in it."
    )


def _cell(made: Comparison, arm: str) -> str:
    if arm == made.arms[0].arm:
        score = made.arms[0].score
        return f"{score.mean:.3f}" if score else "-"
    difference = next((one for one in made.differences if one.arm == arm), None)
    if difference is None:
        return "-"
    gain = difference.gain
    if gain is None:
        return difference.outcome
    interval = f" [{gain.low:+.3f}, {gain.high:+.3f}]" if gain.low is not None and gain.high is not None else ""
    return f"{gain.mean:+.3f}{interval} {difference.outcome}"

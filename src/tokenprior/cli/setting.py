"""Setting: values on the command line in place of those of a config file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tokenprior.config import Config

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="KEY=VALUE in place of what the config says, such as learn.group_size=1; may be given several times.",
    ),
]


def configured(path: Path, changes: list[str] | None) -> Config:
    """The config of a file, with changes.

    Raises:
        ConfigError: a change is not KEY=VALUE, or the config is wrong.
    """
    import yaml

    from tokenprior.config import load_config
    from tokenprior.errors import ConfigError

    values: dict[str, Any] = {}
    for change in changes or ():
        key, equals, text = change.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set {change!r}: expected KEY=VALUE, such as learn.group_size=1")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    return load_config(path, changes=values)

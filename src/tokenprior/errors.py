"""What can stop a run.

::

    TokenpriorError                    every error that tokenprior raises on purpose
    ├── ConfigError                    a setting or an argument is wrong
    │   └── MissingExtra               a feature needs a package that is not installed
    ├── DataError                      a task file or an imported library cannot be read as what it should be
    ├── ModelError                     an endpoint refuses for good: wrong key, unknown model, no such address
    │   └── EmbeddedModelError         the embedded model cannot be had or served
    ├── BudgetReached                  a hard budget leaves no room for the next call
    ├── StoreError                     the store cannot be opened, read or written
    │   └── RunLocked                  another process is at work on this run
    ├── EditRefused                    an edit by hand does not fit the library as it is now
    └── NotFound                       no run, library, group or rollout of that name

What goes wrong with a single rollout, reward or reply is not an error but a fact: see `rollout.Failure`,
an unscored `reward.Reward`, and the drops of an `advantage.Advantage`.
"""

from __future__ import annotations

from typing import Any


class TokenpriorError(Exception):
    """Base of all errors on purpose. Its text is one line for a user: what, where, expected, what to do next."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes it travels as what it is: constructors make the text out of parts.
        return type(self).__new__, (type(self), *self.args), vars(self)


class ConfigError(TokenpriorError):
    """A setting or an argument is wrong."""

    exit_code = 2


class MissingExtra(ConfigError):
    """A feature needs a package that is not installed."""

    def __init__(self, package: str, extra: str, feature: str) -> None:
        super().__init__(f"{feature} needs the package {package}: pip install 'tokenprior[{extra}]'")


class DataError(TokenpriorError):
    """A task file or an imported library cannot be read as what it should be."""

    exit_code = 2


class ModelError(TokenpriorError):
    """An endpoint refuses for good; asking again cannot help."""


class EmbeddedModelError(ModelError):
    """The embedded model cannot be had or served."""


class BudgetReached(TokenpriorError):
    """A hard budget leaves no room for the next call. What was done is kept; a larger budget goes on from there."""

    exit_code = 3

    def __init__(self, what: str, limit: float, spent: float) -> None:
        self.what, self.limit, self.spent = what, limit, spent
        super().__init__(f"budget reached: {what} limit {limit:g}, spent {spent:g}, and the next call does not fit")


class StoreError(TokenpriorError):
    """The store cannot be opened, read or written."""


class RunLocked(StoreError):
    """Another process is at work on this run."""


class EditRefused(TokenpriorError):
    """An edit by hand does not fit the library as it is now. Nothing was changed."""

    exit_code = 2


class NotFound(TokenpriorError):
    """No run, library, group or rollout of that name."""

    exit_code = 2

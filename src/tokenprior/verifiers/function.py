"""PythonFunction: the user's own scoring function."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tokenprior.errors import BudgetReached, ConfigError, ModelError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.source import code_hash, is_async, load_function, own_fingerprint
from tokenprior.task import Task, content_hash

RULE = 1
_KEYS = ("value", "extracted", "feedback", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFunction:
    """Whatever the function gives: a number, a truth value, `None` for unscored, a `Reward`, or a dict with any of
    `value`, `extracted`, `feedback` and `reason`.

    It is called as `function(task, output)`, or `function(task, output, rollout)` if it has a parameter named
    `rollout`; in a thread unless it is async. It is the user's code and runs in this process with all its rights. A
    thread cannot be killed: what is over its time is unscored but runs on.

    Attributes:
        function: the function, or any other callable object.
        source: the name it was loaded by.
        timeout_s: seconds one call may take; above 0.

    Raises:
        ConfigError: it cannot be called with `(task, output)`, or the time limit is not above 0.
    """

    function: Callable[..., Any]
    source: str = ""
    timeout_s: float = 60.0
    _code: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Taken now: a later edit of the file changes the file, not the function that is loaded.
        object.__setattr__(self, "_code", code_hash(self.function))
        if not self.timeout_s > 0:
            raise ConfigError(f"function: timeout_s is {self.timeout_s!r}, expected more than 0")
        name = self.source or repr(self.function)
        if not callable(self.function):
            raise ConfigError(f"function {name}: is a {type(self.function).__name__}, expected a function")
        try:
            inspect.signature(self.function).bind(None, "", **self._more(None))
        except TypeError as error:
            raise ConfigError(
                f"function {name}: cannot be called as (task, output) or (task, output, rollout): {error}"
            ) from error
        except ValueError:  # some built-in callables have no signature
            pass

    @classmethod
    def load(cls, source: str, *, timeout_s: float = 60.0, folder: str | Path = ".") -> Self:
        """From `module:function` or `path/to/file.py:function`, a file as seen from a folder. A file's folder is not
        put on the import path.

        Raises:
            ConfigError: names what is missing, or why it cannot be imported.
        """
        return cls(function=load_function(source, folder=folder), source=source, timeout_s=timeout_s)

    @property
    def fingerprint(self) -> str:
        """Covers the source file as it was when this was made, and the name. What that file imports, and what an
        object or a closure holds, is not covered, but for an object's own `fingerprint` if it has one."""
        return content_hash(["function", RULE, self._code, own_fingerprint(self.function)])

    async def verify(self, task: Task, rollout: Rollout) -> Reward:
        """Call it. Unscored, with the reason in one line, if it raises, takes too long, or gives nothing of use.

        Raises:
            ModelError, BudgetReached: as the function raised them, since they end the run.
        """
        call = self.function
        more = self._more(rollout)
        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                if is_async(call):
                    result = await call(task, rollout.output, **more)
                else:
                    result, error = await asyncio.to_thread(_caught, call, task, rollout.output, more)
                    if error is not None:
                        raise error
                    if inspect.isawaitable(result):
                        result = await result
        except (BudgetReached, ModelError):
            raise
        except TimeoutError as error:
            if limit.expired():
                return Reward.unscored(f"the function took longer than {self.timeout_s:g} s")
            return _raised(error)
        except (Exception, SystemExit) as error:
            return _raised(error)
        return _reward(result)

    def _more(self, rollout: Rollout | None) -> dict[str, Any]:
        try:
            parameters = inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return {}
        return {"rollout": rollout} if "rollout" in parameters else {}


def _caught(
    call: Callable[..., Any], task: Task, output: str, more: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    # Caught inside the thread: a StopIteration cannot pass through a future, and a SystemExit would end the program.
    try:
        return call(task, output, **more), None
    except StopIteration as error:
        return None, RuntimeError(f"StopIteration: {error}")
    except (Exception, SystemExit) as error:
        return None, error


def _raised(error: BaseException) -> Reward:
    line = " ".join(str(error).split())[:200]
    return Reward.unscored(f"the function raised {type(error).__name__}" + (f": {line}" if line else ""))


def _reward(result: Any) -> Reward:
    if isinstance(result, Reward):
        return result
    fields: dict[str, Any] = result if isinstance(result, dict) else {"value": result}
    if unknown := [key for key in fields if key not in _KEYS]:
        return Reward.unscored(f"the function gave a dict with {unknown[0]!r}; expected keys are {list(_KEYS)}")
    value = fields.get("value")
    reason = str(fields.get("reason") or "")
    if value is None:
        return Reward.unscored(reason or "the function gave no score")
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return Reward.unscored(f"the function gave {repr(value)[:60]} ({type(value).__name__}), expected a number")
    if not math.isfinite(number):
        return Reward.unscored(f"the function gave {number}, expected a finite number")
    extracted = fields.get("extracted")
    return Reward(
        value=number,
        reason=reason,
        extracted=None if extracted is None else str(extracted),
        feedback=str(fields.get("feedback") or ""),
    )

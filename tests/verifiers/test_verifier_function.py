"""The user's own function."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task
from tokenprior.verifiers import PythonFunction


def judged(function: Callable[..., Any], timeout_s: float = 60.0) -> Reward:
    verifier = PythonFunction(function=function, timeout_s=timeout_s)
    rollout = Rollout(task_id="t", index=2, messages=(), output="four")
    return asyncio.run(verifier.verify(Task(id="t", question="q", answer="4"), rollout))


async def by_length(task: Task, output: str) -> int:
    return len(output)


class Scorer:
    def __init__(self, fingerprint: str = "") -> None:
        self.fingerprint = fingerprint

    async def __call__(self, task: Task, output: str, *, rollout: Rollout) -> float:
        return float(rollout.index)


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (lambda task, output: output == "four", 1.0),
        (lambda task, output: Decimal("0.5"), 0.5),
        (lambda task, output, rollout: rollout.index, 2.0),
        (lambda task, output: {"value": 1, "feedback": "Good.", "extracted": 4}, 1.0),
        (lambda task, output: Reward(value=0.25), 0.25),
        (lambda task, output: by_length(task, output), 4.0),
        (by_length, 4.0),
        (Scorer(), 2.0),
    ],
)
def test_gives_a_reward(function: Callable[..., Any], value: float) -> None:
    assert judged(function).value == value


def raising(error: BaseException) -> Callable[..., Any]:
    def function(task: Task, output: str) -> float:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda task, output: None, "gave no score"),
        (lambda task, output: {"value": None, "reason": "no tests ran"}, "no tests ran"),
        (lambda task, output: float("nan"), "finite number"),
        (lambda task, output: 10**400, "expected a number"),
        (lambda task, output: "1", "'1' (str), expected a number"),
        (lambda task, output: {"score": 1}, "dict with 'score'"),
        (lambda task, output: 1 / 0, "the function raised ZeroDivisionError: division by zero"),
        (raising(SystemExit(3)), "the function raised SystemExit: 3"),
        (raising(StopIteration()), "StopIteration"),
        (raising(TimeoutError("their own")), "the function raised TimeoutError: their own"),
        (raising(ValueError("two\nlines")), "ValueError: two lines"),
    ],
)
def test_what_gives_no_number_is_unscored_with_its_reason(function: Callable[..., Any], reason: str) -> None:
    reward = judged(function)
    assert reward.value is None
    assert reason in reward.reason


def test_errors_that_end_a_run_pass() -> None:
    with pytest.raises(BudgetReached):
        judged(raising(BudgetReached("usd", 1, 1)))


def test_a_slow_function_is_unscored() -> None:
    assert "took longer than 0.1 s" in judged(lambda task, output: time.sleep(0.5), timeout_s=0.1).reason


def test_a_function_of_a_file_is_loaded_and_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "scorer.py"
    file.write_text("def score(task, output):\n    return output == task.answer\n")
    first = PythonFunction.load(f"{file}:score")
    assert first.fingerprint == PythonFunction.load(f"{file}:score").fingerprint
    file.write_text("def score(task, output):\n    return 0.5\n")
    second = PythonFunction.load(f"{file}:score")
    assert second.fingerprint != first.fingerprint
    rollout = Rollout(task_id="t", index=0, messages=(), output="4")
    assert asyncio.run(second.verify(Task(id="t", question="q"), rollout)).value == 0.5


def test_a_function_of_a_module_is_loaded() -> None:
    assert PythonFunction.load("test_verifier_function:by_length").function.__name__ == "by_length"


def test_an_object_may_bring_its_own_fingerprint() -> None:
    prints = {PythonFunction(function=Scorer(name)).fingerprint for name in ("a", "b", "a")}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("score", "expected module:function or path/to/file.py:function"),
        ("no_such_module:score", "cannot import no_such_module: ModuleNotFoundError"),
        ("no/such/file.py:score", "no file"),
        ("json:no_such_name", "no 'no_such_name' in json; it has ["),
        ("json:JSONDecodeError", "cannot be called as (task, output)"),
        ("json:loads", "cannot be called as (task, output)"),
        ("json:__name__", "expected a function"),
    ],
)
def test_a_wrong_source_is_refused_in_a_clear_line(source: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        PythonFunction.load(source)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_raises_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="raised ZeroDivisionError"):
        PythonFunction.load(f"{file}:score")

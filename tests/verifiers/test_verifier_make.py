"""From a config to a verifier."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import tokenprior.verifiers
from tokenprior.errors import ConfigError
from tokenprior.models.base import Reply, Request
from tokenprior.task import Task
from tokenprior.verifiers import Choice, Judge, Number, Take, make_verifier


class Silent:
    name = "silent"

    async def answer(self, request: Request) -> Reply:
        raise AssertionError("not asked here")


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "exact", "take": "last_line", "ignore_case": True},
        {"kind": "choice", "options": ["a", 1, True]},
        {"kind": "number", "tolerance_abs": 1, "percent": "fraction", "units": "required"},
        {"kind": "contains", "require": "all"},
        {"kind": "regex", "pattern": "a+", "timeout_s": 1},
        {"kind": "math", "timeout_s": 3},
        {"kind": "json_schema", "schema": {"type": "object"}, "take": "fence"},
        {"kind": "judge", "rubric": "Be good.", "scale": [1, 5], "show_answer": False},
        {"kind": "function", "function": "test_verifier_function:by_length", "timeout_s": 5},
        {"kind": "function", "function": lambda task, output: 1.0},
    ],
)
def test_every_kind_is_made_and_has_a_stable_fingerprint(spec: dict[str, Any]) -> None:
    made = make_verifier(spec, model=Silent())
    assert made.fingerprint == make_verifier(spec, model=Silent()).fingerprint
    assert len(made.fingerprint) == 20


def test_values_arrive() -> None:
    number = make_verifier({"kind": "number", "take": "after:Answer:", "tolerance_rel": 0.5})
    assert number == Number(take=Take.parse("after:Answer:"), tolerance_rel=0.5)
    judge = make_verifier({"kind": "judge", "rubric": "r", "scale": [1, 5]}, model=Silent())
    assert isinstance(judge, Judge)
    assert judge.scale == (1, 5)


def test_a_choice_takes_its_options_from_the_tasks() -> None:
    tasks = [Task(id=str(n), question="q", answer=answer) for n, answer in enumerate(["b", "a", ["b", "c"]])]
    made = make_verifier({"kind": "choice"}, tasks=tasks)
    assert isinstance(made, Choice)
    assert made.options == ("a", "b", "c")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["kind is missing", "json_schema"]),
        ({"kind": "exakt"}, ["'exakt'", "expected one of exact", "did you mean 'exact'?"]),
        ({"kind": "exact", "tak": "all"}, ["unknown option 'tak' (got 'all')", "ignore_case", "did you mean 'take'?"]),
        ({"kind": "exact", "take": "lastline"}, ["'lastline'", "last_line"]),
        ({"kind": "exact", "take": 3}, ["take is 3", "last_line"]),
        ({"kind": "exact", "ignore_case": "yes"}, ["exact: ignore_case is 'yes'", "valid boolean"]),
        ({"kind": "number", "percent": "half"}, ["percent is 'half'", "'as_is' or 'fraction'"]),
        ({"kind": "number", "tolerance_abs": "1"}, ["tolerance_abs is '1'", "valid number"]),
        ({"kind": "choice"}, ["options is missing"]),
        ({"kind": "choice", "options": "a, b"}, ["options is 'a, b'"]),
        ({"kind": "regex", "pattern": "("}, ["regex: pattern", "'('"]),
        ({"kind": "judge"}, ["rubric is missing"]),
        ({"kind": "judge", "rubric": "r"}, ["needs a model"]),
        ({"kind": "judge", "rubric": "r", "model": "x"}, ["unknown option 'model'"]),
        ({"kind": "math", "_pool": 1}, ["unknown option '_pool'"]),
        ({"kind": "function"}, ["function is missing"]),
        ({"kind": "function", "function": 3}, ["expected module:function"]),
    ],
)
def test_a_wrong_config_is_answered_with_the_right_words(spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make_verifier(spec)
    for word in words:
        assert word in str(error.value)


def test_all_that_is_announced_can_be_imported() -> None:
    for name in tokenprior.verifiers.__all__:
        assert hasattr(tokenprior.verifiers, name)


def test_importing_the_family_imports_nothing_heavy() -> None:
    heavy = ("pydantic", "pydantic_ai", "openai", "aiohttp", "sqlalchemy", "math_verify", "sympy", "jsonschema")
    code = f"import sys, tokenprior.verifiers; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

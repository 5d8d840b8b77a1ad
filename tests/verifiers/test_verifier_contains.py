"""Substrings and patterns."""

from __future__ import annotations

import asyncio
import time

import pytest

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import Contains, Regex, Take
from tokenprior.verifiers.base import Verifier


def judged(verifier: Verifier, answer: object, output: str, stop: StopReason = StopReason.DONE) -> Reward:
    rollout = Rollout(task_id="t", index=0, messages=(), output=output, stop=stop)
    return asyncio.run(verifier.verify(Task(id="t", question="q", answer=answer), rollout))


@pytest.mark.parametrize(
    ("verifier", "output", "value", "words"),
    [
        (Contains(), "It was MARCH 19, 1998.", 1.0, "Correct."),
        (Contains(ignore_case=False), "It was MARCH 19, 1998.", 0.0, "None of these was found"),
        (Contains(require="all"), "March 19, 1998", 0.0, 'Not found in the whole output: "Bogota".'),
        (Contains(require="all"), "Bogota, March 19, 1998", 1.0, "Correct."),
        (Contains(take=Take.parse("last_line")), "Bogota\nno", 0.0, "in the last line"),
    ],
)
def test_contains(verifier: Contains, output: str, value: float, words: str) -> None:
    reward = judged(verifier, ["March 19, 1998", "Bogota"], output)
    assert reward.value == value
    assert words in reward.feedback


def test_contains_needs_a_reference_and_names_a_cut_off() -> None:
    assert judged(Contains(), None, "x").reason == "task has no reference answer"
    assert "cut off" in judged(Contains(), "y", "x", StopReason.LENGTH).feedback


def test_a_pattern_of_the_config_or_of_the_task() -> None:
    assert judged(Regex(pattern=r"\b\d{4}\b"), None, "in 1998").extracted == "1998"
    assert judged(Regex(), [r"^no$", r"^yes$"], "well\nyes").value == 1.0
    assert judged(Regex(whole=True), "yes", "yes, sir").value == 0.0
    assert judged(Regex(ignore_case=True), "YES", "yes").value == 1.0
    assert "does not match" in judged(Regex(), "z+", "yes").feedback


def test_an_invalid_pattern_is_an_error_in_a_config_and_unscored_in_a_task() -> None:
    with pytest.raises(ConfigError, match="is not a regular expression"):
        Regex(pattern="(")
    assert "could not be matched" in judged(Regex(), "(", "x").reason
    assert judged(Regex(), None, "x").reason == "task has no reference answer"


def test_a_pattern_that_backtracks_without_end_is_unscored_in_time() -> None:
    start = time.perf_counter()
    reward = judged(Regex(pattern="(a+)+$", timeout_s=0.3), None, "a" * 50 + "b")
    assert reward.value is None
    assert "took longer than 0.3 s" in reward.reason
    assert time.perf_counter() - start < 20

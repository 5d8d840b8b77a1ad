"""Numbers: how they are read, compared, and what is said of a wrong one."""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import Number, Take
from tokenprior.verifiers.numeral import numerals, read_number


def judged(verifier: Number, answer: object, output: str, stop: StopReason = StopReason.DONE) -> Reward:
    rollout = Rollout(task_id="t", index=0, messages=(), output=output, stop=stop)
    return asyncio.run(verifier.verify(Task(id="t", question="q", answer=answer), rollout))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,234,567.5", [Fraction("1234567.5")]),
        ("$-3 and -$3 and −3 and (-3)", [-3, -3, -3, -3]),
        ("5-3, x-3", [5, 3, 3]),
        ("3/4, 1 3/4, ½, 2½", [Fraction(3, 4), Fraction(7, 4), Fraction(1, 2), Fraction(5, 2)]),
        (r"-\frac{1}{2} and 2\times 10^{5}", [Fraction(-1, 2), 200000]),
        ("1.5e-3 2 x 10^5 .5", [Fraction("0.0015"), 200000, Fraction(1, 2)]),
        ("1. First 2. Second", [1, 2]),
        ("1,2", [None]),
        ("1, 2", [1, 2]),
        ("3,14", [None]),
        ("on 2020-01-02, 1/2/2020 at 12:30 in v1.2.3", []),
        ("a2 b77 2nd", [2]),
        ("1{,}000 and 1_000", [1000, 1000]),
        ("答案是18。", [18]),
        ("1/0 " + "9" * 500, []),
        ("**18**", [18]),
        ("make 13*2 = $<<13*2=26>>26", [13, 2, 13, 2, 26, 26]),
    ],
)
def test_reads_the_numbers_of_a_text(text: str, values: list[Fraction | None]) -> None:
    assert [number.value for number in numerals(text)] == values


@pytest.mark.parametrize("text", ["9" * 100_000, "a" + "9" * 100_000, "1," * 50_000, "1.1" * 30_000, "1 " * 20_000])
def test_a_hostile_text_is_read_in_time(text: str) -> None:
    start = time.perf_counter()
    numerals(text)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("verifier", "answer", "output", "value"),
    [
        (Number(), "18", "She makes 9 * 2 = $<<9*2=18>>18 per day\nA: 18", 1.0),
        (Number(), "18", "18\nA: 26", 0.0),
        (Number(), "70000", "The profit is $70,000.00.", 1.0),
        (Number(), 400, "400 ml", 1.0),
        (Number(), "12 square meters", "12", 1.0),
        (Number(), ["7", "8"], "8", 1.0),
        (Number(), "0.1", "1/10", 1.0),
        (Number(), "6", "6%", 1.0),
        (Number(percent="fraction"), "0.06", "6%", 1.0),
        (Number(percent="fraction"), "6", "6%", 0.0),
        (Number(tolerance_abs=0.01), "3.14", "3.149", 1.0),
        (Number(tolerance_abs=0.01), "3.14", "3.16", 0.0),
        (Number(tolerance_rel=0.1), "-100", "-109", 1.0),
        (Number(units="required"), "400 ml", "400 ML", 1.0),
        (Number(units="required"), "400 ml", "400", 0.0),
        (Number(units="required"), "$5", "$5.00", 1.0),
        (Number(take=Take.parse("last_line")), "24", "24\nso it is 25", 0.0),
        (Number(take=Take.parse("tag:answer")), "162", "<answer>162</answer> of 200", 1.0),
    ],
)
def test_scores(verifier: Number, answer: object, output: str, value: float) -> None:
    assert judged(verifier, answer, output).value == value


@pytest.mark.parametrize(
    ("verifier", "answer", "output", "words"),
    [
        (Number(), "0.06", "6", "100 times too large"),
        (Number(), "40.0", "0.4", "100 times too small"),
        (Number(), "40", "-40", "wrong sign"),
        (Number(), "3.14159", "3.14", "rounded to fewer decimals than wanted"),
        (Number(), "3.1", "3.14", "rounded to more decimals than wanted"),
        (Number(), "18", "18. Check: 7", "stands in the attempt, but is not the last number"),
        (Number(), "2", "1,2", "A list of numbers"),
        (Number(), "5", "none", "No number was found"),
        (Number(), "5", "77", "Another number"),
        (Number(units="required"), "400 ml", "400 l", "its unit is missing or another one"),
    ],
)
def test_feedback_says_how_it_missed(verifier: Number, answer: str, output: str, words: str) -> None:
    feedback = judged(verifier, answer, output).feedback
    assert words in feedback
    assert f'Wanted: "{answer}"' in feedback


def test_a_cut_off_attempt_is_called_so() -> None:
    assert "cut off at its token limit" in judged(Number(), "5", "First, 3 plus", StopReason.LENGTH).feedback


@pytest.mark.parametrize(
    "answer", [None, "ten", "1,2", "3 hours 20 minutes", "x^2", "whom, suffice, past, Avenue, 150", {"a": 1}]
)
def test_a_reference_that_is_no_number_is_unscored(answer: object) -> None:
    reward = judged(Number(), answer, "3")
    assert reward.value is None
    assert "reference answer" in reward.reason


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_from_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="tolerance_rel"):
        Number(tolerance_rel=value)


@given(st.text(), st.text(alphabet="0123456789.,/-%$ex^{}\\ "))
@settings(max_examples=400, deadline=None)
def test_no_text_makes_it_raise(answer: str, output: str) -> None:
    for verifier in (Number(), Number(percent="fraction", units="required", tolerance_rel=0.1)):
        judged(verifier, answer, output)
        judged(verifier, output, answer)
        judged(verifier, "3", output)
    read_number(output)


@given(st.one_of(st.integers(), st.decimals(allow_nan=False, allow_infinity=False, places=3)), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_reference_itself_scores_one(value: object, grouped: bool) -> None:
    written = f"{value:,}" if grouped else str(value)
    assert judged(Number(), str(value), f"The answer is {written}.").value == 1.0

"""Exact equality, and the words that say how an attempt missed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import Exact, Take
from tokenprior.verifiers.diagnose import diagnose, quoted


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


LAST = Exact(take=Take.parse("last_line"))


def attempt(output: str, stop: StopReason = StopReason.DONE) -> Rollout:
    return Rollout(task_id="t", index=0, messages=(), output=output, stop=stop)


def task(answer: object) -> Task:
    return Task(id="t", question="q", answer=answer)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "output", "words"),
    [
        (
            "syndrome therefrom",
            "syndrome, therefrom",
            "right order, but separated differently: by commas, wanted by sp",
        ),
        ("syndrome therefrom", "1. syndrome\n2. therefrom", "stand in the attempt one per line, with a number"),
        ("barn damp dot", "dot damp barn", "the same words, but in another order."),
        ("barn damp dot", "dot, damp, barn", "in another order and separated differently: by commas"),
        ("barn damp dot scorch same", "barn damp scorch same", "1 of 5 wanted words are missing"),
        ("True", "true", "differs only in letter case"),
        ("True", "The answer is true.", "stands in the last line, but not alone"),
        ("False", "(False) and True is\nTrue", "another answer, in the right form"),
        ("8", "**8**", "differs only in punctuation or quoting"),
        ("8", "8 things\nSo many things", "stands in the attempt, but not alone in the last line"),
        ("8", "x = 7", "another answer, in another form"),
        ("3", "The answer is 3.5", "another answer"),
        ("] ]", "]]", "differs only in spaces or line breaks"),
        ("8", "", "nothing was found in the last line"),
        (
            "The actor was encouraged by the president.",
            "The actor was encouraged by the president",
            "differs only in punctuation or quoting",
        ),
    ],
)
async def test_feedback_says_how_it_missed(answer: str, output: str, words: str) -> None:
    reward = await LAST.verify(task(answer), attempt(output))
    assert reward.value == 0.0
    assert words in reward.feedback.replace("Another", "another").replace("The same", "the same").replace(
        "Nothing", "nothing"
    )
    assert reward.feedback.startswith("Read from the last line: ")
    assert f'Wanted: "{answer}"' in reward.feedback


@pytest.mark.anyio
async def test_a_cut_off_attempt_is_called_so() -> None:
    reward = await LAST.verify(task("8"), attempt("Let us count the", StopReason.LENGTH))
    assert "The attempt was cut off at its token limit" in reward.feedback


@pytest.mark.anyio
async def test_right_is_one_word() -> None:
    reward = await LAST.verify(task(["no", "yes"]), attempt("Well,\nyes\n"))
    assert (reward.value, reward.feedback, reward.extracted) == (1.0, "Correct.", "yes")


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [None, "", [], {"a": 1}])
async def test_without_a_reference_it_is_unscored(answer: object) -> None:
    reward = await LAST.verify(task(answer), attempt("yes"))
    assert (reward.value, reward.reason) == (None, "task has no reference answer")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("verifier", "output"),
    [
        (Exact(ignore_case=True), "the Actor"),
        (Exact(ignore_punctuation=True), '**"The actor".**'),
        (Exact(ignore_space=True), "The \n  actor"),
    ],
)
async def test_each_option_forgives_its_own(verifier: Exact, output: str) -> None:
    assert (await verifier.verify(task("The actor"), attempt(output))).value == 1.0
    assert (await Exact().verify(task("The actor"), attempt(output))).value == 0.0


def test_long_texts_are_cut() -> None:
    assert quoted("a\n" * 300).endswith('…" (cut)')
    assert len(quoted("a" * 300)) < 220


def test_settings_have_fingerprints_of_their_own() -> None:
    assert len({Exact().fingerprint, LAST.fingerprint, Exact(ignore_case=True).fingerprint}) == 3
    assert Exact().fingerprint == Exact().fingerprint


@given(st.text(), st.text(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_text_makes_it_raise(answer: str, output: str, lenient: bool) -> None:
    verifier = Exact(ignore_case=lenient, ignore_punctuation=lenient, ignore_space=lenient)
    reward = asyncio.run(verifier.verify(task(answer), attempt(output)))
    assert reward.value in (None, 0.0, 1.0)
    assert diagnose(wanted=[answer], read=output, output=output, place="the whole output")


@given(st.text().filter(str.strip), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_reference_itself_scores_one(answer: str, lenient: bool) -> None:
    verifier = Exact(ignore_case=lenient, ignore_punctuation=lenient, ignore_space=lenient)
    assert asyncio.run(verifier.verify(task(answer), attempt(answer))).value == 1.0

"""One of a closed set of options."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError
from tokenprior.rollout import Rollout, StopReason
from tokenprior.task import Task
from tokenprior.verifiers import Choice, Take

BANKING = Choice(
    options=(
        "pending_top_up",
        "top_up_failed",
        "pending_card_payment",
        "card_payment",
        "declined_card_payment",
        "reverted_card_payment?",
    )
)


def attempt(output: str, stop: StopReason = StopReason.DONE) -> Rollout:
    return Rollout(task_id="t", index=0, messages=(), output=output, stop=stop)


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("pending_top_up", ["pending_top_up"]),
        (" **Pending_Top_Up**. ", ["pending_top_up"]),
        ("The intent is declined_card_payment, I think.", ["declined_card_payment"]),
        ("reverted_card_payment", ["reverted_card_payment?"]),
        ("It is reverted_card_payment? or not", ["reverted_card_payment?"]),
        ("pending_top_up or top_up_failed", ["pending_top_up", "top_up_failed"]),
        ("pending_top_up, yes pending_top_up", ["pending_top_up"]),
        ("my_pending_top_up_x", []),
        ("pending top up", []),
        ("", []),
    ],
)
def test_finds_the_options_that_are_named(output: str, named: list[str]) -> None:
    assert list(BANKING.named(output)) == named


def test_the_longest_label_wins_where_labels_contain_each_other() -> None:
    spaced = Choice(options=("card payment", "pending card payment", "payment"))
    assert spaced.named("I say pending card payment here") == ("pending card payment",)


def test_single_letters_keep_their_case_inside_a_text() -> None:
    letters = Choice(options=("A", "B"))
    assert letters.named("it is a matter of b-trees, so (B)") == ("B",)
    assert letters.named("b") == ("B",)


@pytest.mark.parametrize(
    ("output", "value", "words"),
    [
        ("pending_top_up", 1.0, "Correct."),
        ("top_up_failed", 0.0, 'It names the option "top_up_failed". Wanted: "pending_top_up".'),
        ("pending_top_up, top_up_failed", 0.0, 'several options: "pending_top_up", "top_up_failed"'),
        ("I do not know", 0.0, "It names none of the options. Wanted"),
    ],
)
def test_feedback_names_what_was_named(output: str, value: float, words: str) -> None:
    task = Task(id="b77-train-2056", question="Problem with my top up going through", answer="pending_top_up")
    reward = asyncio.run(BANKING.verify(task, attempt(output)))
    assert reward.value == value
    assert words in reward.feedback


def test_an_option_outside_the_place_is_pointed_out() -> None:
    verifier = Choice(options=("yes", "no"), take=Take.parse("last_line"))
    reward = asyncio.run(verifier.verify(Task(id="t", question="q", answer="yes"), attempt("yes\nBecause it fits.")))
    assert 'names none of the options; "yes" stands elsewhere' in reward.feedback


@pytest.mark.parametrize(("answer", "reason"), [(None, "no reference"), ("other", "none of the options")])
def test_a_reference_that_is_no_option_is_unscored(answer: str | None, reason: str) -> None:
    reward = asyncio.run(BANKING.verify(Task(id="t", question="q", answer=answer), attempt("pending_top_up")))
    assert reward.value is None
    assert reason in reward.reason


@pytest.mark.parametrize("options", [(), ("a",), ("a", " "), ("yes", "Yes")])
def test_options_that_cannot_be_told_apart_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Choice(options=options)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6), st.text(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_never_raises_and_every_label_names_itself(labels: list[str], text: str, ignore_case: bool) -> None:
    try:
        verifier = Choice(options=tuple(labels), ignore_case=ignore_case)
    except ConfigError:
        return
    verifier.named(text)
    verifier.named(text.join(labels))
    for label in labels:
        task = Task(id="t", question="q", answer=label)
        assert asyncio.run(verifier.verify(task, attempt(label))).value == 1.0

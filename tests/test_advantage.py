"""Answers and questions of practice tasks do not leak into lessons."""

from __future__ import annotations

import pytest

from tokenprior.advantage import Advantage, LeakGuard, Lesson, number_lessons
from tokenprior.task import Task

SUMS = [
    Task(id="s1", question="A farmer has twelve hens and buys nine more of them on Monday. How many?", answer="21"),
    Task(id="s2", question="Seven boats leave the old harbour before noon, and five return. Who stays?", answer=2),
    Task(id="s3", question="Which city lies where the rivers Rhône and Saône meet, below Mâcon?", answer="Lyon France"),
    Task(id="s4", question="Name the metal that is liquid in a warm room and shines.", answer=["mercury", "Hg"]),
    Task(id="s5", question="How many letters has the word that follows this one?", answer="4"),
]  # fmt: skip
BOOLEANS = [Task(id=f"b{i}", question=f"not ( {i} > 3 ) is", answer=str(i > 3)) for i in range(8)]
INTENTS = [f"intent_number_{name}" for name in "abcdefghijklmnop"]
ROUTING = [Task(id=f"r{i}", question=f"message {i}", answer=INTENTS[i % 16]) for i in range(64)]


@pytest.mark.parametrize(
    "text",
    [
        "When a farmer has twelve hens and buys nine more of them, add.",
        "When 'A FARMER has, twelve hens and BUYS nine more' is read, add both.",
    ],
)
def test_a_verbatim_piece_of_a_question_is_refused_and_the_task_named(text: str) -> None:
    problem = LeakGuard(SUMS).problem(text)
    assert problem == "quotes a training question: task s1"


def test_a_few_words_of_a_question_are_no_quotation() -> None:
    assert LeakGuard(SUMS).problem("When a farmer has twelve hens, count what he buys.") is None


def test_words_that_several_tasks_share_are_their_form_and_may_be_named() -> None:
    form = "Solve the riddle below and write the number on the last line:"
    tasks = [Task(id=f"t{i}", question=f"{form} {word}", answer=word) for i, word in enumerate(["ox", "elk", "emu"])]
    assert LeakGuard(tasks).problem(f"When asked to {form} think first.") is None


@pytest.mark.parametrize(
    "text",
    [
        "When hens are bought, add them up to 21.",
        "When rivers meet, think of Lyon, France, before others.",
        "When a metal is liquid, it may be Mercury.",
    ],
)
def test_an_answer_that_is_peculiar_to_its_task_is_refused_wherever_it_stands(text: str) -> None:
    problem = LeakGuard(SUMS).problem(text)
    assert problem == "repeats the answer of one training task"


@pytest.mark.parametrize(
    "text",
    [
        "When a problem has two parts, use 2 steps and 4 checks.",
        "When units differ, convert them first.",
        "When a number 121 or 210 comes up, factor it.",
    ],
)
def test_a_digit_in_passing_is_allowed(text: str) -> None:
    assert LeakGuard(SUMS).problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "the expected answer should be `False` for all given attempts",
        "When unsure, the answer is False.",
        "Always make the final output to be 'true'.",
        "When the attempts differ, results are True in all cases.",
    ],
)
def test_a_constant_answer_is_refused_though_it_is_short(text: str) -> None:
    assert LeakGuard(BOOLEANS).problem(text) == "states an answer instead of a way to it"


def test_the_form_of_a_boolean_answer_may_be_taught() -> None:
    guard = LeakGuard(BOOLEANS)
    assert guard.problem("When an expression has brackets, evaluate the innermost first.") is None
    assert guard.problem("When two parts are joined by and, both have to hold.") is None


def test_a_category_may_be_named_with_its_condition() -> None:
    guard = LeakGuard(ROUTING)
    assert guard.problem("When a customer asks where a card is, the answer is intent_number_c.") is None
    assert guard.problem("When a payment came twice, choose intent_number_h rather than intent_number_b.") is None


def test_the_reason_does_not_repeat_what_leaked() -> None:
    guard = LeakGuard(SUMS)
    problem = guard.problem("The city is Lyon France.")
    assert problem is not None
    assert "lyon" not in problem.casefold()


def test_tasks_without_answers_guard_their_questions_alone() -> None:
    guard = LeakGuard([Task(id="o", question="one two three four five six seven eight nine")])
    assert guard.problem("When one two three four five six seven eight, stop.") == "quotes a training question: task o"
    assert guard.problem("The answer is nine.") is None
    assert LeakGuard([]).problem("The answer is nine.") is None


def test_lessons_of_a_batch_are_numbered_from_one_in_the_order_of_the_groups() -> None:
    one, two, three = (Lesson(name=n, text=f"When {n}, do.") for n in "abc")
    first, empty = Advantage(groups=("t1",), lessons=(one, two)), Advantage(groups=("t2",))
    last = Advantage(groups=("t3",), lessons=(three,))
    numbered = number_lessons([first, empty, last])
    assert numbered == [(1, first, one), (2, first, two), (3, last, three)]

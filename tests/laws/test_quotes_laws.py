"""Quotes: what is found is what looking at every piece of every question finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenprior.experience import words
from tokenprior.quotes import SIZE, Quotes, runs
from tokenprior.task import Task

few_words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=14)
questions = st.lists(few_words.map(" ".join), max_size=6)


def by_hand(tasks: list[Task], text: str) -> str | None:
    tokens = words(text)
    for at in range(len(tokens) - SIZE + 1):
        quote = f" {' '.join(tokens[at : at + SIZE])} "
        of = [task for task in tasks if quote in f" {' '.join(words(task.question))} "]
        if of and len({task.text_key for task in of}) == 1:
            return of[0].id
    return None


@given(questions, few_words.map(" ".join))
def test_a_quote_is_found_exactly_where_one_question_alone_has_it(asked: list[str], text: str) -> None:
    tasks = [Task(id=f"t{number}", question=question) for number, question in enumerate(asked)]
    found = Quotes(tasks).source(words(text))
    assert (found.id if found else None) == by_hand(tasks, text)


@given(st.lists(few_words.map(" ".join), min_size=1, max_size=4), few_words)
def test_the_runs_of_a_text_are_what_stands_in_it_word_by_word(sought: list[str], tokens: list[str]) -> None:
    found = set(runs(tokens, {len(text.split()) for text in sought if text}))
    for text in filter(None, sought):
        assert (text in found) == (f" {text} " in f" {' '.join(tokens)} ")

"""The prior: one wording, one place, within its budget."""

from __future__ import annotations

import pytest

from tokenprior.experience import Experience, Provenance
from tokenprior.library import Library, estimate_tokens
from tokenprior.prior import HEADING, Rendering, TokenPrior


def library(*supports: int) -> Library:
    return Library(
        experiences=tuple(
            Experience(
                id=f"G{i}",
                name=f"Name {i}",
                text=f"When case {i} comes up, do the thing number {i}.",
                provenance=Provenance(groups=tuple(f"t{n}" for n in range(support))),
            )
            for i, support in enumerate(supports)
        )
    )


@pytest.mark.parametrize("instructions", ["", "Answer.", "Answer.\n\n", "  \ttwo\r\nlines ", "{question} \ud800"])
def test_an_empty_library_leaves_the_prompt_byte_identical(instructions: str) -> None:
    prior = TokenPrior.of(Library())
    assert prior.text == ""
    assert prior.conditioned(instructions) == instructions
    assert TokenPrior().conditioned(instructions) == instructions


def test_the_prior_stands_at_the_end_of_the_system_prompt() -> None:
    prior = TokenPrior.of(library(1, 1))
    assert prior.conditioned("Answer.") == f"Answer.\n\n{prior.text}"
    assert prior.conditioned("") == prior.text
    assert prior.text.split("\n") == [
        HEADING,
        "[G0] Name 0: When case 0 comes up, do the thing number 0.",
        "[G1] Name 1: When case 1 comes up, do the thing number 1.",
    ]
    assert prior.included == ("G0", "G1")
    assert prior.omitted == ()


def test_what_does_not_fit_the_budget_is_left_out_weakest_first_and_named() -> None:
    made = library(3, 1, 2, 1)
    whole = estimate_tokens(TokenPrior.of(made).text)
    for budget, included in ((whole, "G0 G1 G2 G3"), (whole - 1, "G0 G1 G2"), (whole - 20, "G0 G2"), (40, "G0")):
        prior = TokenPrior.of(made, Rendering(tokens=budget))
        assert prior.included == tuple(included.split())
        assert estimate_tokens(prior.text) <= budget
        assert set(prior.included) | set(prior.omitted) == {"G0", "G1", "G2", "G3"}
    assert TokenPrior.of(made, Rendering(tokens=40)).omitted == ("G1", "G2", "G3")


def test_a_budget_too_small_for_any_lesson_leaves_no_heading() -> None:
    prior = TokenPrior.of(library(1), Rendering(tokens=5))
    assert prior.text == ""
    assert prior.omitted == ("G0",)
    assert prior.conditioned("Answer.") == "Answer."


def test_its_fingerprint_names_the_words_alone() -> None:
    made = library(1, 2)
    other = library(5, 5)
    assert TokenPrior.of(made).fingerprint == TokenPrior.of(other).fingerprint
    assert TokenPrior.of(made).fingerprint != TokenPrior.of(library(1)).fingerprint
    assert TokenPrior.of(made).library_version == made.version

"""The prior: one wording, one place, within its budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenprior.effects import halves
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.library import Library, estimate_tokens
from tokenprior.prior import HEADING, Rendering, TokenPrior
from tokenprior.relevance import relevance


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


# Lessons chosen for the task at hand.

LESSONS = {
    "G0": "When a recipe is asked for, list every ingredient with its weight.",
    "G1": "When a parcel is late, name the depot and the courier.",
    "G2": "When the card was swallowed by a machine, say which bank owns it.",
    "G3": "When a parcel is broken, ask for a photograph.",
    "G4": "When numbers are added, carry the ones along.",
}


def chosen_from(effects: dict[str, float] | None = None) -> Library:
    known = effects or {}
    return Library(
        experiences=tuple(
            Experience(
                id=identity,
                text=text,
                effect=Effect(mean=0.0, low=-1.0, high=1.0, shrunk=known[identity], tasks=9, rollouts=9)
                if identity in known
                else None,
            )
            for identity, text in LESSONS.items()
        )
    )


def test_the_lessons_that_share_most_with_the_question_are_chosen_in_the_order_of_the_library() -> None:
    asked = "My parcel arrived broken, courier says nothing"
    one = TokenPrior.of(chosen_from(), Rendering(relevant=1), question=asked)
    assert one.included == ("G3",)
    two = TokenPrior.of(chosen_from(), Rendering(relevant=2), question=asked)
    assert two.included == ("G1", "G3")
    assert two.omitted == ("G0", "G2", "G4")
    assert two.text.split("\n") == [HEADING, f"[G1] {LESSONS['G1']}", f"[G3] {LESSONS['G3']}"]


def test_lessons_that_share_no_word_with_the_question_are_not_chosen() -> None:
    asked = "parcel 17"
    assert TokenPrior.of(chosen_from(), Rendering(relevant=4), question=asked).included == ("G1", "G3")
    for nothing in ("xylophone", "", "??"):
        prior = TokenPrior.of(chosen_from(), Rendering(relevant=4), question=nothing)
        assert (prior.text, prior.included) == ("", ())
        assert prior.conditioned("Answer.") == "Answer."


def test_the_core_comes_first_and_is_the_same_before_every_task() -> None:
    library = chosen_from({"G4": 0.3, "G2": 0.1, "G0": -0.2})
    heads = set()
    for asked in ("parcel broken", "courier late parcel", "xylophone", "card machine bank", "ingredient numbers"):
        prior = TokenPrior.of(library, Rendering(relevant=1, core=2), question=asked)
        assert prior.included[:2] == ("G2", "G4")
        assert len(prior.included) <= 3
        heads.add("\n".join(prior.text.split("\n")[:3]))
    assert len(heads) == 1, "a prefix that a server can cache"
    assert TokenPrior.of(library, Rendering(relevant=1, core=2), question="parcel broken").included == (
        "G2",
        "G4",
        "G3",
    )


def test_without_a_choice_or_a_question_the_whole_list_stands_in_its_order() -> None:
    library = chosen_from({"G4": 0.3})
    whole = TokenPrior.of(library)
    assert whole.included == tuple(LESSONS)
    assert TokenPrior.of(library, Rendering(), question="parcel") == whole
    assert TokenPrior.of(library, Rendering(core=2), question="parcel") == whole
    assert TokenPrior.of(library, Rendering(relevant=2, core=1)) == whole


def test_what_is_chosen_keeps_to_the_tokens_and_drops_what_brings_least() -> None:
    library = chosen_from({"G4": 0.3, "G3": 0.1})
    rendering = Rendering(relevant=2, core=1)
    whole = TokenPrior.of(library, rendering, question="a broken parcel")
    assert whole.included == ("G4", "G1", "G3")
    fits = estimate_tokens(whole.text)
    for tokens, included in ((fits, ("G4", "G1", "G3")), (fits - 1, ("G4", "G3")), (35, ("G4",)), (5, ())):
        prior = TokenPrior.of(library, replace(rendering, tokens=tokens), question="a broken parcel")
        assert prior.included == included
        assert estimate_tokens(prior.text) <= tokens
        assert set(prior.included) | set(prior.omitted) == set(LESSONS)


def test_relevance_is_nothing_for_no_shared_word_and_more_for_rarer_ones() -> None:
    lessons = list(LESSONS.values())
    scores = relevance("parcel depot", lessons)
    assert scores[1] > scores[3] > 0
    assert scores[0] == scores[2] == scores[4] == 0
    rare, common, also = relevance("parcel depot", ["a depot opens", "a parcel leaves", "a parcel returns"])
    assert rare > common == also > 0
    assert relevance("anything", []) == []
    assert relevance("anything", ["", "!"]) == [0.0, 0.0]
    assert relevance("PARCEL Depot parcel", lessons) == scores, "neither case nor repetition of the question counts"


@pytest.mark.parametrize("asked", ["parcel broken late", "card", "numbers parcel recipe", "xylophone"])
@pytest.mark.parametrize("core", [0, 1, 3])
def test_a_part_of_what_is_chosen_for_a_task_is_all_chosen_for_it(asked: str, core: int) -> None:
    """Else an attempt of an inclusion pair would not see the part that the design gave it."""
    library = chosen_from({"G4": 0.3, "G1": 0.1, "G0": -0.2})
    rendering = Rendering(relevant=2, core=core)
    whole = TokenPrior.of(library, rendering, question=asked).included
    for row in range(8):
        for part in halves(whole, row=row, seed="s"):
            seen = TokenPrior.of(library.only(part), rendering, question=asked)
            assert set(seen.included) == part

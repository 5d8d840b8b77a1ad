"""Controls look like the library they stand beside, and know nothing of it."""

from __future__ import annotations

import pytest

from tokenprior.controls import PLACEBOS, placebo, shuffled
from tokenprior.experience import MAX_WORDS, Effect, Experience, Provenance, count_words
from tokenprior.library import Library, estimate_tokens
from tokenprior.prior import TokenPrior

LEARNED = Library(
    experiences=(
        Experience(id="G0", name="Last line", text="When a number is asked for, write it alone on the last line."),
        Experience(id="G4", text="When two options are left, compare both with the question word by word."),
        Experience(
            id="G7",
            name="Units",
            text="When the question names a unit, convert everything to it first.",
            provenance=Provenance(run="r", groups=("t1", "t2")),
            effect=Effect(mean=0.1, low=0.0, high=0.2, shrunk=0.05, tasks=9, rollouts=90),
        ),
    )
)


@pytest.mark.parametrize("make", [placebo, shuffled])
def test_a_control_has_the_form_of_the_library_and_the_same_one_for_a_seed(make: object) -> None:
    made = make(LEARNED, seed=3)  # type: ignore[operator]
    assert [e.id for e in made] == ["G0", "G4", "G7"]
    assert [bool(e.name) for e in made] == [True, False, True]
    assert made == make(LEARNED, seed=3)  # type: ignore[operator]
    assert made.version not in (LEARNED.version, make(LEARNED, seed=4).version)  # type: ignore[operator]
    assert all(e.effect is None and not e.provenance.groups for e in made)
    assert made.version == Library.from_json(made.to_json()).version
    assert make(Library(), seed=3) == Library()  # type: ignore[operator]


def test_a_placebo_is_about_as_long_and_shares_no_lesson() -> None:
    made = placebo(LEARNED, seed=0)
    for real, control in zip(LEARNED, made, strict=True):
        assert abs(count_words(real.line) - count_words(control.line)) <= 4
        assert control.provenance.operation == "Placebo"
    assert len({e.text for e in made}) == 3
    tokens = [estimate_tokens(TokenPrior.of(library).text) for library in (LEARNED, made)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.2)


def test_a_library_larger_than_there_are_placebos_gets_all_there_are() -> None:
    many = Library(experiences=tuple(Experience(id=f"G{i}", text=f"When it is {i}, do this.") for i in range(60)))
    made = placebo(many, seed=0)
    assert [e.id for e in made] == [f"G{i}" for i in range(len(PLACEBOS))]
    assert {e.text for e in made} == {text for _, text in PLACEBOS}


def test_placebos_are_lessons_as_a_library_takes_them() -> None:
    assert 40 <= len(PLACEBOS) == len(set(PLACEBOS))
    for name, text in PLACEBOS:
        assert text.startswith("When ")
        assert text.endswith(".")
        assert count_words(text) <= MAX_WORDS
        assert 1 <= len(name.split()) <= 5


def test_shuffled_lessons_have_the_same_words_in_the_same_numbers() -> None:
    made = shuffled(LEARNED, seed=0)
    assert sorted(" ".join(e.line for e in made).replace(":", "").split()) == sorted(
        " ".join(e.line for e in LEARNED).replace(":", "").split()
    )
    for real, control in zip(LEARNED, made, strict=True):
        assert len(control.text.split()) == len(real.text.split())
        assert control.text != real.text

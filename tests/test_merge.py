"""Joining libraries: duplicates become one, conflicts are named, bounds are kept, and origins are remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import story
from tokenprior.experience import Effect, Experience, Origin, Provenance
from tokenprior.library import Bounds, Library
from tokenprior.merge import merge
from tokenprior.operation import Keep, Modify

SMALL = "When a word is to be repeated, write it in small letters."
SHORTER = "When a word is to be repeated, write it all in small letters."
CAPITALS = "When a word is to be repeated, write it in capital letters."
NEVER = "When a word is to be repeated, never write it in small letters."
SUMS = "When a sum is asked for, add the parts twice."

WIDE = Bounds(max_experiences=100, max_tokens=10_000)


def effect(mean: float, tasks: int = 20) -> Effect:
    return Effect(mean=mean, low=mean - 0.1, high=mean + 0.1, shrunk=mean, tasks=tasks, rollouts=5 * tasks)


def library(run: str, *texts: str, effects: tuple[float | None, ...] = (), groups: int = 1) -> Library:
    return Library(
        experiences=tuple(
            Experience(
                id=f"G{number}",
                text=text,
                provenance=Provenance(
                    run=run,
                    groups=tuple(f"t{group}" for group in range(groups)),
                    rollouts=tuple(f"t{group}#0" for group in range(groups)),
                    parents=("G7",),
                ),
                effect=effect(effects[number]) if number < len(effects) and effects[number] is not None else None,
            )
            for number, text in enumerate(texts)
        )
    )


def test_lessons_of_both_libraries_get_new_ids_and_remember_the_old_ones() -> None:
    made = merge(
        [("a", library("A", SMALL, SUMS)), ("b", library("B", "When a list is given, count it."))], bounds=WIDE
    )
    assert [(e.id, e.text) for e in made.library] == [
        ("G0", SMALL),
        ("G1", SUMS),
        ("G2", "When a list is given, count it."),
    ]
    assert [str(e.provenance.origins[0]) for e in made.library] == ["A/G0", "A/G1", "B/G0"]
    assert made.library["G2"].provenance.run == "B"
    assert made.library["G2"].provenance.parents == (), "the parent's id means another lesson here"
    assert (made.conflicts, made.left) == ((), ())


def test_the_same_lesson_twice_is_one_that_rests_on_the_groups_of_both() -> None:
    made = merge([("a", library("A", SMALL, groups=2)), ("b", library("B", SMALL, groups=2))], bounds=WIDE)
    (experience,) = made.library
    assert experience.support == 4, "groups of two runs are two, though the task is one"
    assert experience.provenance.groups == ("t0", "t1", "B/t0", "B/t1")
    assert experience.provenance.rollouts == ("t0#0", "t1#0", "B/t0#0", "B/t1#0")
    assert [origin.run for origin in experience.provenance.origins] == ["A", "B"]
    assert made.left == ()


@pytest.mark.parametrize(
    ("here", "there", "groups", "stays"),
    [
        (0.1, 0.2, (9, 1), SHORTER),
        (0.2, 0.1, (1, 9), SMALL),
        (None, -0.1, (1, 9), SMALL),
        (None, None, (1, 2), SHORTER),
    ],
)
def test_the_wording_that_stays_is_that_of_the_larger_effect_and_then_of_more_groups(
    here: float | None, there: float | None, groups: tuple[int, int], stays: str
) -> None:
    ours = library("A", SMALL, effects=(here,), groups=groups[0])
    theirs = library("B", SHORTER, effects=(there,), groups=groups[1])
    for libraries in ([("a", ours), ("b", theirs)], [("b", theirs), ("a", ours)]):
        made = merge(libraries, bounds=WIDE)
        assert [e.text for e in made.library] == [stays]
        (left,) = made.left
        assert left.entry.line == ({SMALL, SHORTER} - {stays}).pop()
        assert left.reason == "it says the same as G0"


def test_an_effect_goes_along_as_evidence_of_its_origin_and_is_not_the_effect_here() -> None:
    made = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", Library())], bounds=WIDE)
    (experience,) = made.library
    assert experience.effect is None
    assert experience.provenance.origins == (Origin(run="A", id="G0", effect=effect(0.3)),)
    assert "effect there +0.300" in str(experience.provenance.origins[0])


@pytest.mark.parametrize("other", [CAPITALS, NEVER])
def test_alike_conditions_with_other_advice_are_a_conflict_and_no_duplicate_and_both_stay(other: str) -> None:
    made = merge([("a", library("A", SUMS, SMALL)), ("b", library("B", other))], bounds=WIDE)
    assert [e.text for e in made.library] == [SUMS, SMALL, other]
    (conflict,) = made.conflicts
    assert [(side.id, side.origins) for side in (conflict.first, conflict.second)] == [
        ("G1", ("a/G1",)),
        ("G2", ("b/G0",)),
    ]


@pytest.mark.parametrize(
    ("one", "other", "is_conflict"),
    [
        ("Write small letters if a word is to be repeated.", CAPITALS, True),
        ("For a sum of fractions, find the denominator.", "For a sum of fractions, add the numbers first.", True),
        ("When a word is not to be repeated, leave it out.", SMALL, False),  # it speaks of the other tasks
        (SUMS, SMALL, False),
        ("Write small letters.", "Write capital letters.", False),  # no condition is told
    ],
)
def test_a_conflict_is_told_by_the_condition(one: str, other: str, is_conflict: bool) -> None:
    made = merge([("a", library("A", one)), ("b", library("B", other))], bounds=WIDE)
    assert len(made.library) == 2
    assert bool(made.conflicts) is is_conflict


def test_lessons_of_one_library_are_neither_duplicates_nor_a_conflict() -> None:
    made = merge([("a", library("A", SMALL, SHORTER, CAPITALS))], bounds=WIDE)
    assert [e.text for e in made.library] == [SMALL, SHORTER, CAPITALS]
    assert made.conflicts == ()


def test_the_first_library_or_the_larger_effect_wins_a_conflict_when_asked_to() -> None:
    ours, theirs = library("A", SMALL, effects=(0.1,)), library("B", CAPITALS, effects=(0.2,))
    first = merge([("a", ours), ("b", theirs)], bounds=WIDE, prefer="first")
    assert [e.text for e in first.library] == [SMALL]
    assert [(one.entry.origins, one.reason) for one in first.left] == [
        (("b/G0",), "it is in conflict with a/G0, which comes first")
    ]
    assert (first.conflicts[0].first.id, first.conflicts[0].second.id) == ("G0", "")
    better = merge([("a", ours), ("b", theirs)], bounds=WIDE, prefer="effect")
    assert [e.text for e in better.library] == [CAPITALS]
    unknown = [("a", library("A", SMALL)), ("b", library("B", CAPITALS))]
    assert len(merge(unknown, bounds=WIDE, prefer="effect").library) == 2, "where nothing was measured both stay"


def test_what_lost_a_conflict_wins_no_other() -> None:
    third = "When a word is to be repeated, write it twice."
    libraries = [("a", library("A", SMALL)), ("b", library("B", CAPITALS)), ("c", library("C", third))]
    made = merge(libraries, bounds=WIDE, prefer="first")
    assert [e.text for e in made.library] == [SMALL]
    assert {one.reason for one in made.left} == {"it is in conflict with a/G0, which comes first"}


def test_over_the_bounds_the_least_worth_goes_by_the_effects_of_the_origins_and_is_named() -> None:
    ours, theirs = library("A", SMALL, SUMS, effects=(-0.2, None)), library("B", "When a list is given, count it.")
    made = merge([("a", ours), ("b", theirs)], bounds=Bounds(max_experiences=2))
    assert [e.text for e in made.library] == [SUMS, "When a list is given, count it."]
    (left,) = made.left
    assert (left.entry.origins, left.reason) == (("a/G0",), "the library is over its bound of 2 experiences")


def test_a_joined_library_can_be_joined_again_and_its_lessons_stay_those_of_the_first_runs() -> None:
    once = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", library("B", SMALL, SUMS))], bounds=WIDE).library
    again = merge([("once", once), ("b", library("B", SMALL, SUMS)), ("c", library("C", SUMS))], bounds=WIDE).library
    assert [[(o.run, o.id) for o in e.provenance.origins] for e in again] == [
        [("A", "G0"), ("B", "G0")],
        [("B", "G1"), ("C", "G0")],
    ]
    assert again["G0"].provenance.origins[0].effect == effect(0.3)
    assert again["G0"].provenance.groups == ("t0", "B/t0")


def test_what_was_measured_after_joining_is_evidence_of_the_joined_library() -> None:
    once = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", Library())], bounds=WIDE).library
    measured = once.with_effects({"G0": effect(-0.1, tasks=90)})
    (again,) = merge([("once", measured), ("c", library("C", SUMS))], bounds=Bounds(max_experiences=1)).left
    assert again.entry.line == SMALL, "the measurement over the most tasks speaks"
    kept = merge([("once", measured)], bounds=WIDE).library["G0"].provenance.origins
    assert [(origin.run, origin.effect) for origin in kept] == [("A", effect(0.3)), ("once", effect(-0.1, tasks=90))]


def test_learning_goes_on_with_the_origins_but_not_with_the_effect_of_other_words() -> None:
    joined = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", library("B", SUMS))], bounds=WIDE).library
    operations = [Modify(id="G0", name="", text=CAPITALS), Keep(id="G1")]
    learned = joined.apply(operations, bounds=WIDE, run="C").library
    assert learned["G0"].provenance.origins == (Origin(run="A", id="G0"),)
    assert learned["G1"].provenance.origins == (Origin(run="B", id="G0"),)
    again = merge([("c", learned)], bounds=WIDE).library
    assert [(o.run, o.id) for o in again["G0"].provenance.origins] == [("A", "G0"), ("C", "G0")]


def test_origins_go_to_json_and_back_and_a_library_without_them_stays_as_it_was() -> None:
    joined = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", library("B", SUMS))], bounds=WIDE).library
    back = Library.from_json(json.loads(joined.dumps()))
    assert (back, back.dumps()) == (joined, joined.dumps())
    assert "origins" not in library("A", SMALL).dumps()


@pytest.mark.anyio
async def test_why_and_show_tell_what_a_lesson_was_before_it_was_joined(tmp_path: Path) -> None:
    joined = merge([("a", library("A", SMALL, effects=(0.3,))), ("b", library("B", SUMS))], bounds=WIDE).library
    await story.fill(tmp_path / "s.db", "r", story.loud, start=joined, epochs=1, gate="none")
    told = "joined from A/G0 (effect there +0.300 [+0.200, +0.400] over 20 tasks)"
    assert told in story.said("why", "r", "G0", "--store", tmp_path / "s.db")
    shown = story.said("show", "r", "library", "--store", tmp_path / "s.db")
    assert "joined from: A/G0 (effect there" in shown
    assert "joined from: B/G0" in shown


def test_where_no_run_is_known_the_library_is_named() -> None:
    plain = Library(experiences=(replace(library("", SMALL)["G0"], id="G3"),))
    (experience,) = merge([("mine.json", plain)], bounds=WIDE).library
    assert str(experience.provenance.origins[0]) == "mine.json/G3"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.json").write_text(library("A", SMALL, SUMS).dumps())
    (tmp_path / "b.json").write_text(json.dumps({"G0": CAPITALS, "G1": "When asked, note anna@firma.de."}))
    (tmp_path / "c.json").write_text(
        json.dumps({"G0": CAPITALS, "G1": "When a sum is asked for, add the parts twice over."})
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_the_library_names_conflicts_and_keeps_a_report(home: Path) -> None:
    ended = story.run("merge", "a.json", "c.json", "--to", "out.json", "--json", "report.json")
    assert ended.exit_code == 0, ended.output
    made = Library.from_json(json.loads((home / "out.json").read_text()))
    assert ended.stdout == f"out.json: 3 lessons (of 4 given: 1 said the same as another), library {made.version}\n"
    assert "conflict: both stay, as G0 and G2" in ended.stderr
    assert f"a.json/G0: {SMALL}" in ended.stderr
    assert (
        "left out: c.json/G1: When a sum is asked for, add the parts twice over.\n  it says the same as G1"
        in ended.stderr
    )
    report = json.loads((home / "report.json").read_text())
    assert report["format"] == "tokenprior-merge-1"
    assert [one["first"]["id"] for one in report["conflicts"]] == ["G0"]
    assert report["left"][0]["entry"]["origins"] == ["c.json/G1"]


def test_the_command_keeps_private_data_out_by_policy(home: Path) -> None:
    refused = story.error("merge", "a.json", "b.json", "--to", "out.json")
    assert "b.json: private data in G1 (e-mail address)" in refused
    assert not (home / "out.json").exists()
    ended = story.run("merge", "a.json", "b.json", "--to", "out.json", "--private", "mask", "--json", "report.json")
    assert ended.exit_code == 0
    assert "anna" not in (home / "out.json").read_text() + (home / "report.json").read_text() + ended.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a.json"], "merge a.json: expected two libraries or more"),
        (["a.json", "none.json"], "none.json: cannot be read"),
        (["a.json", "none"], "no such store"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(home: Path, arguments: list[str], problem: str) -> None:
    assert problem in story.error("merge", *arguments, "--to", "out.json")
    assert not (home / "out.json").exists()

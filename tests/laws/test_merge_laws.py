"""Laws of joining libraries: nothing is lost, order changes ids alone, and what is there already changes no words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.library import Bounds, Library, estimate_tokens
from tokenprior.merge import Merged, Prefer, merge

LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)
WIDE = Bounds(max_experiences=1_000, max_tokens=100_000)

conditions = st.sampled_from(
    ["", "When a sum is odd", "When the sum is odd", "If no sum is odd", "When a list is long"]
)
advice = st.lists(
    st.sampled_from(["check", "count", "the", "last", "sign", "twice", "never", "first"]), min_size=2, max_size=6
)
texts = st.builds(lambda when, what: f"{when}, {' '.join(what)}." if when else f"{' '.join(what)}.", conditions, advice)
effects = st.none() | st.sampled_from([-0.2, 0.1, 0.3]).map(
    lambda mean: Effect(mean=mean, low=mean, high=mean, shrunk=mean, tasks=9, rollouts=18)
)


@st.composite
def libraries(draw: st.DrawFn, run: str = "A") -> Library:
    return Library(
        experiences=tuple(
            Experience(
                id=f"G{2 * number}",
                name=draw(st.sampled_from(["", "Sums"])),
                text=draw(texts),
                provenance=Provenance(run=run, groups=tuple(f"t{n}" for n in range(draw(st.integers(0, 3))))),
                effect=draw(effects),
            )
            for number in range(draw(st.integers(0, 6)))
        )
    )


several = st.tuples(libraries("A"), libraries("B"), libraries("C"))
bounds = st.builds(Bounds, max_experiences=st.integers(1, 8), max_tokens=st.integers(10, 100))
preferences = st.sampled_from([None, "first", "effect"])


def joined(made: Sequence[Library], bound: Bounds = WIDE, prefer: Prefer | None = None, names: str = "abc") -> Merged:
    return merge(list(zip(names, made, strict=False)), bounds=bound, prefer=prefer)


def lines(library: Library) -> Counter[str]:
    return Counter(experience.line for experience in library)


@LAW
@given(libraries())
def test_joining_with_itself_or_with_nothing_changes_no_words_and_no_place(library: Library) -> None:
    for other in (library, Library()):
        made = joined([library, other])
        assert [e.line for e in made.library] == [e.line for e in library]
        assert (made.conflicts, made.left) == ((), ())


@LAW
@given(several, bounds, preferences)
def test_every_lesson_is_in_the_library_or_named_with_a_reason(
    made: tuple[Library, ...], bound: Bounds, prefer: Prefer | None
) -> None:
    merged = joined(made, bound, prefer)
    kept = lines(merged.library)
    left = {(name, one.entry.line) for one in merged.left for name in one.entry.origins}
    for label, library in zip("abc", made, strict=True):
        for experience in library:
            assert experience.line in kept or (f"{label}/{experience.id}", experience.line) in left
    assert all(one.reason for one in merged.left)
    origins = [(origin.run, origin.id) for e in merged.library for origin in e.provenance.origins]
    assert len(set(origins)) == len(origins), "no lesson went into two"


@LAW
@given(several, bounds, st.sampled_from([None, "effect"]), st.permutations(range(3)))
def test_the_order_of_the_libraries_changes_ids_alone(
    made: tuple[Library, ...], bound: Bounds, prefer: Prefer | None, order: list[int]
) -> None:
    one = joined(made, bound, prefer)
    other = joined([made[at] for at in order], bound, prefer, "".join("abc"[at] for at in order))
    assert lines(one.library) == lines(other.library)
    assert Counter(left.entry.line for left in one.left) == Counter(left.entry.line for left in other.left)
    assert {frozenset((c.first.line, c.second.line)) for c in one.conflicts} == {
        frozenset((c.first.line, c.second.line)) for c in other.conflicts
    }


@LAW
@given(several, bounds, preferences)
def test_the_bounds_are_kept_and_ids_run_from_zero(
    made: tuple[Library, ...], bound: Bounds, prefer: Prefer | None
) -> None:
    library = joined(made, bound, prefer).library
    assert len(library) <= bound.max_experiences
    assert sum(estimate_tokens(e.line) for e in library) <= bound.max_tokens
    assert [e.id for e in library] == [f"G{number}" for number in range(len(library))]


@LAW
@given(several)
def test_no_group_is_lost_and_none_counts_twice(made: tuple[Library, ...]) -> None:
    library = joined(made).library
    assert sum(e.support for e in library) == sum(e.support for one in made for e in one)


@LAW
@given(several, preferences)
def test_what_was_joined_comes_back_as_it_is(made: tuple[Library, ...], prefer: Prefer | None) -> None:
    once = joined(made, prefer=prefer).library
    again = joined([once]).library
    assert again == once

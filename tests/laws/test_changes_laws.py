"""Laws of the parts of a candidate: which changes there are, and what a library with some of them is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.experience import Experience
from tokenprior.library import Bounds, Library
from tokenprior.operation import Add, Delete, Keep, Merge, Modify, Operation

LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)

WORDS = "when if the sum is odd even check last digit sign then answer unit twice never always count list before"

texts = st.lists(st.sampled_from(WORDS.split()), min_size=4, max_size=9, unique=True).map(" ".join)
ids = st.integers(0, 9).map(lambda number: f"G{number}")
operation = st.one_of(
    st.builds(Add, name=st.sampled_from(["", "A"]), text=texts),
    st.builds(Modify, id=ids, name=st.sampled_from(["", "M"]), text=texts),
    st.builds(Merge, ids=st.lists(ids, min_size=2, max_size=3, unique=True).map(tuple), name=st.just(""), text=texts),
    st.builds(Delete, id=ids),
    st.builds(Keep, id=ids),
)
several = st.lists(operation, max_size=8)
bounds = st.builds(Bounds, max_experiences=st.integers(2, 12))


def after(library: Library, operations: list[Operation], bound: Bounds, step: int) -> Library:
    return library.apply(operations, bounds=bound, run="r", step=step).library


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Library, Library]:
    """What ships, and a candidate one or more steps on: what learning went on from was not proven in between."""
    shipped = after(Library(), [Add(name="", text=text) for text in draw(st.lists(texts, max_size=6))], Bounds(), 0)
    candidate = shipped
    for step in range(1, 1 + draw(st.integers(1, 3))):
        candidate = after(candidate, draw(several), draw(bounds), step)
    return shipped, candidate


def lines(library: Library) -> list[tuple[str, str]]:
    return [(e.id, e.line) for e in library]


def differing(one: Library, other: Library) -> set[str]:
    a, b = dict(lines(one)), dict(lines(other))
    return {identity for identity in {*a, *b} if a.get(identity) != b.get(identity)}


@LAW
@given(pairs())
def test_every_changed_id_is_in_exactly_one_part_and_no_other_is(pair: tuple[Library, Library]) -> None:
    shipped, candidate = pair
    parts = shipped.changes(candidate)
    flat = [identity for part in parts for identity in part]
    assert len(flat) == len(set(flat))
    assert set(flat) == differing(shipped, candidate)
    assert all(parts)


@LAW
@given(pairs())
def test_with_all_changes_it_reads_as_the_candidate_does(pair: tuple[Library, Library]) -> None:
    shipped, candidate = pair
    whole = shipped.with_changes(candidate, differing(shipped, candidate))
    assert lines(whole) == lines(candidate)
    assert whole.version == candidate.version


@LAW
@given(pairs())
def test_with_no_changes_it_is_the_library_and_ids_that_were_given_stay_given(pair: tuple[Library, Library]) -> None:
    shipped, candidate = pair
    none = shipped.with_changes(candidate, ())
    assert none.experiences == shipped.experiences
    assert none.next_number == max(shipped.next_number, candidate.next_number)


@LAW
@given(pairs(), st.data())
def test_with_some_changes_each_id_reads_as_on_the_side_it_was_taken_from(
    pair: tuple[Library, Library], data: st.DataObject
) -> None:
    shipped, candidate = pair
    parts = shipped.changes(candidate)
    chosen = data.draw(st.sets(st.sampled_from(parts))) if parts else set()
    taken = {identity for part in chosen for identity in part}
    mixed = dict(lines(shipped.with_changes(candidate, taken)))
    before, new = dict(lines(shipped)), dict(lines(candidate))
    for identity in {*before, *new}:
        assert mixed.get(identity) == (new if identity in taken else before).get(identity)
    assert mixed.keys() <= before.keys() | new.keys()


@LAW
@given(pairs())
def test_the_two_halves_together_are_the_whole(pair: tuple[Library, Library]) -> None:
    shipped, candidate = pair
    parts = shipped.changes(candidate)
    middle = len(parts) // 2
    one, other = ({i for part in half for i in part} for half in (parts[:middle], parts[middle:]))
    both = shipped.with_changes(candidate, one).with_changes(candidate, other)
    assert dict(lines(both)) == dict(lines(candidate))
    assert both.next_number == candidate.next_number


@LAW
@given(st.lists(texts, min_size=3, max_size=6), st.data())
def test_what_a_merge_took_in_is_one_part_with_what_it_became(start: list[str], data: st.DataObject) -> None:
    shipped = after(Library(), [Add(name="", text=text) for text in start], Bounds(), 0)
    if len(shipped) < 2:
        return
    some = st.lists(st.sampled_from([e.id for e in shipped]), min_size=2, max_size=3, unique=True).map(tuple)
    merge = Merge(ids=data.draw(some), name="", text="a merged lesson of entirely other wording")
    others = data.draw(st.lists(st.builds(Add, name=st.just(""), text=texts), max_size=2))
    candidate = after(shipped, [merge, *others], Bounds(), 1)
    (part,) = [part for part in shipped.changes(candidate) if set(part) & set(merge.ids)]
    assert set(part) == set(merge.ids)


def merged(*later: Operation) -> tuple[Library, Library]:
    """A library of four, and a candidate in which the first two are one, and more was done in later steps."""
    shipped = Library(
        experiences=tuple(
            Experience(id=f"G{i}", text=text)
            for i, text in enumerate(
                ("add the units", "sign goes last", "count every list twice", "never answer early")
            )
        )
    )
    candidate = after(shipped, [Merge(ids=("G0", "G1"), name="", text="units, then the sign")], Bounds(), 1)
    for step, one in enumerate(later, start=2):
        candidate = after(candidate, [one], Bounds(), step)
    return shipped, candidate


def test_a_merge_that_was_reworded_in_a_later_step_is_still_one_part() -> None:
    """Else one half would take the merged lesson and keep what it took in, the other delete that and have nothing."""
    shipped, candidate = merged(Modify(id="G0", name="", text="first units and only then a sign"))
    assert [set(part) for part in shipped.changes(candidate)] == [{"G0", "G1"}]


def test_a_merge_of_a_merge_is_one_part() -> None:
    shipped, candidate = merged(Merge(ids=("G0", "G2"), name="", text="units, then sign, then all lists"))
    assert [set(part) for part in shipped.changes(candidate)] == [{"G0", "G1", "G2"}]


def test_a_merge_of_two_merges_is_one_part() -> None:
    shipped, candidate = merged(
        Merge(ids=("G2", "G3"), name="", text="count lists, answer late"),
        Merge(ids=("G0", "G2"), name="", text="all of it in good order, late"),
    )
    assert [set(part) for part in shipped.changes(candidate)] == [{"G0", "G1", "G2", "G3"}]

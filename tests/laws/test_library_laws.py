"""Laws of the library: operations are carried out or refused, ids are for life, and a library is a fold over them."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.experience import MAX_WORDS, Experience, Provenance, count_words, parse_id, similarity, words
from tokenprior.library import SAME, Applied, Bounds, Library, Source, estimate_tokens
from tokenprior.operation import Add, Delete, Keep, Merge, Modify, Operation, parse_operations, to_json

LAW = settings(max_examples=300, deadline=None, derandomize=True, database=None)

WORDS = "when if the sum is odd even check last digit sign then answer unit twice never always count list before"

texts = st.lists(
    st.sampled_from([*WORDS.split(), r"\frac{1}{2}", "数", "naïve"]), min_size=1, max_size=MAX_WORDS + 6
).map(" ".join)
ids = st.integers(0, 14).map(lambda number: f"G{number}")
cited = st.lists(st.integers(1, 8), max_size=3).map(tuple)
operation = st.one_of(
    st.builds(Add, name=st.sampled_from(["", "A", "B c"]), text=texts, reason=texts, lessons=cited),
    st.builds(Modify, id=ids, name=st.sampled_from(["", "M"]), text=texts, lessons=cited),
    st.builds(Merge, ids=st.lists(ids, max_size=4).map(tuple), name=st.just("Me"), text=texts, lessons=cited),
    st.builds(Delete, id=ids),
    st.builds(Keep, id=ids, lessons=cited),
)
several = st.lists(operation, max_size=12)
bounds = st.builds(
    Bounds, max_experiences=st.integers(1, 8), max_tokens=st.integers(10, 300), max_words=st.integers(5, MAX_WORDS)
)
SOURCES = {n: Source(groups=(f"t{n % 5}",), rollouts=(f"t{n % 5}#0", f"t{n % 5}#{n}")) for n in range(1, 7)}


def carried_out(library: Library, operations: list[Operation], bound: Bounds) -> Applied:
    return library.apply(operations, bounds=bound, run="r", step=1, sources=SOURCES)


@st.composite
def libraries(draw: st.DrawFn) -> Library:
    return carried_out(Library(), draw(several), draw(bounds)).library


@LAW
@given(libraries(), several, bounds)
def test_apply_is_deterministic_and_leaves_its_library_alone(
    start: Library, made: list[Operation], bound: Bounds
) -> None:
    before = start.dumps()
    first, second = carried_out(start, made, bound), carried_out(start, made, bound)
    assert first == second
    assert first.library.dumps() == second.library.dumps()
    assert start.dumps() == before


@LAW
@given(libraries(), several, bounds)
def test_every_operation_ends_in_exactly_one_list(start: Library, made: list[Operation], bound: Bounds) -> None:
    applied = carried_out(start, made, bound)
    evicted = [o for o in applied.done if isinstance(o, Delete) and "over its bound" in o.reason]
    assert len(applied.done) - len(evicted) + len(applied.refused) == len(made)
    assert all(refused.reason for refused in applied.refused)
    refused = [refused.operation for refused in applied.refused]
    done = list(applied.done)
    for one in made:
        if refused and one is refused[0]:
            refused.pop(0)
        else:
            became = done.pop(0)
            assert became is one or (isinstance(one, Add) and isinstance(became, Keep))
    assert done == evicted


@LAW
@given(libraries(), several, bounds)
def test_bounds_are_kept(start: Library, made: list[Operation], bound: Bounds) -> None:
    library = carried_out(start, made, bound).library
    assert len(library) <= bound.max_experiences
    assert sum(estimate_tokens(e.line) for e in library) <= bound.max_tokens
    before = {e.text for e in start}
    for experience in library:
        if experience.text not in before:
            assert count_words(experience.text) <= bound.max_words


@LAW
@given(st.lists(several, min_size=2, max_size=4), bounds)
def test_an_id_is_never_given_twice(batches: list[list[Operation]], bound: Bounds) -> None:
    library = Library()
    seen: set[str] = set()
    for made in batches:
        library = Library.from_json(json.loads(library.dumps()))
        alive = {e.id for e in library}
        library = carried_out(library, made, bound).library
        new = {e.id for e in library} - alive
        assert not new & seen
        assert all(parse_id(identity) == identity for identity in new)
        seen |= new


@LAW
@given(libraries())
def test_json_gives_the_same_library_back(library: Library) -> None:
    again = Library.from_json(json.loads(library.dumps()))
    assert again == library
    assert again.version == library.version
    assert again.dumps() == library.dumps()


@LAW
@given(libraries())
def test_the_version_is_a_function_of_the_content_alone(library: Library) -> None:
    other = tuple(replace(e, provenance=Provenance(run="other", step=9, groups=("x",))) for e in library)
    assert Library(experiences=other, next_number=99).version == library.version
    for at, experience in enumerate(library):
        for changed in (replace(experience, text=experience.text + "x"), replace(experience, name="other name")):
            entries = (*library.experiences[:at], changed, *library.experiences[at + 1 :])
            assert Library(experiences=entries).version != library.version
    if len(library) > 1:
        assert Library(experiences=library.experiences[::-1]).version != library.version


@LAW
@given(libraries(), several, bounds)
def test_a_library_is_a_fold_over_what_was_done(start: Library, made: list[Operation], bound: Bounds) -> None:
    applied = carried_out(start, made, bound)
    again = carried_out(start, list(applied.done), bound)
    assert again.library.experiences == applied.library.experiences
    assert again.library.version == applied.library.version
    assert not again.refused


@LAW
@given(libraries(), several, bounds)
def test_what_was_done_can_be_folded_from_its_stored_form(start: Library, made: list[Operation], bound: Bounds) -> None:
    applied = carried_out(start, made, bound)
    stored = json.dumps([to_json(one) for one in applied.done])
    read, drops = parse_operations(stored)
    assert not drops
    assert carried_out(start, read, bound).library.version == applied.library.version


@LAW
@given(libraries(), several, bounds)
def test_evidence_only_grows_and_is_known(start: Library, made: list[Operation], bound: Bounds) -> None:
    library = carried_out(start, made, bound).library
    known = {group for source in SOURCES.values() for group in source.groups}
    for experience in library:
        assert set(experience.provenance.groups) <= known
        assert len(set(experience.provenance.groups)) == experience.support
        if experience.id in start:
            assert set(start[experience.id].provenance.groups) <= set(experience.provenance.groups)


def test_an_add_that_says_the_same_becomes_a_keep_and_adds_its_support() -> None:
    text = "When the sum is odd, check the last digit."
    library = carried_out(Library(), [Add(name="A", text=text, lessons=(1,))], Bounds()).library
    applied = carried_out(library, [Add(name="B", text=text.upper(), lessons=(2,))], Bounds())
    (kept,) = applied.done
    assert isinstance(kept, Keep)
    assert applied.library["G0"].provenance.groups == ("t1", "t2")
    assert applied.library.version == library.version


def test_a_modify_of_an_unknown_id_is_refused_and_adds_nothing() -> None:
    applied = carried_out(Library(), [Modify(id="G7", name="x", text="When a, do b now.")], Bounds())
    assert len(applied.library) == 0
    assert applied.refused[0].reason == "there is no G7"


def test_a_merge_of_one_id_twice_is_refused_and_loses_nothing() -> None:
    library = carried_out(Library(), [Add(name="A", text="When a, do b now.")], Bounds()).library
    for given_ids in ((), ("G0",), ("G0", "G0")):
        applied = carried_out(library, [Merge(ids=given_ids, name="M", text="When c, do d soon.")], Bounds())
        assert applied.library == library
        assert "two ids" in applied.refused[0].reason


def test_a_merge_keeps_the_first_id_its_place_and_all_evidence() -> None:
    adds: list[Operation] = [
        Add(name="A", text="When a word is odd, check it.", lessons=(1,)),
        Add(name="B", text="Before counting the list, sort units.", lessons=(2,)),
        Add(name="C", text="If signs differ then never add.", lessons=(3,)),
    ]
    library = carried_out(Library(), adds, Bounds()).library
    merge = Merge(ids=("G2", "G0"), name="", text="Always look twice at everything.", lessons=(4,))
    merged = carried_out(library, [merge], Bounds()).library
    assert [e.id for e in merged] == ["G1", "G2"]
    assert merged["G2"].name == "C"
    assert merged["G2"].provenance.parents == ("G2", "G0")
    assert merged["G2"].provenance.groups == ("t3", "t1", "t4")
    assert merged.next_number == 3


def test_the_weakest_and_of_those_the_youngest_goes_first_and_is_named() -> None:
    adds: list[Operation] = [
        Add(name="A", text="When a word is odd, check it.", lessons=(1,)),
        Add(name="B", text="Before counting the list, sort units.", lessons=(1, 2)),
        Add(name="C", text="If signs differ then never add.", lessons=(3,)),
    ]
    applied = carried_out(Library(), adds, Bounds(max_experiences=2))
    assert [e.id for e in applied.library] == ["G0", "G1"]
    assert applied.done[-1] == Delete(id="G2", reason="the library is over its bound of 2 experiences")


def test_a_lesson_in_chinese_has_words() -> None:
    text = "当题目要求最后一位数字时，先对十取模。"
    applied = carried_out(Library(), [Add(name="取模", text=text)], Bounds())
    assert len(applied.library) == 1
    assert count_words(text) == 9
    assert similarity(text, text.replace("十", "百")) > SAME
    assert similarity(text, "若图形不完整，应补全后再计算面积。") < 0.3
    assert words("mod 10 取模") == ["mod", "10", "取", "模"]


def test_ids_are_read_as_models_write_them() -> None:
    for text in ("G3", "[G3]", "g3", "3", 3, " [ g03 ]. ", "[G3]."):
        assert parse_id(text) == "G3"
    for text in ("", "G", "G3 and G4", "H3", -1, 3.0, True, None, ["G3"], "G" + "1" * 10):
        assert parse_id(text) is None


def test_an_id_that_was_given_stays_given_whatever_the_file_says() -> None:
    library = Library(experiences=(Experience(id="G5", text="When a, do b."),), next_number=2)
    assert library.next_number == 6

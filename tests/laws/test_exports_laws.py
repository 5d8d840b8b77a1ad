"""What goes out in a form comes back as it went, whatever the words are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import DataError
from tokenprior.experience import Effect, Experience, Provenance, one_line, readable
from tokenprior.exports import FORMATS, export, form_of, read
from tokenprior.exports.base import taken
from tokenprior.library import Library

PIECES = (
    *("<!--", "-->", "<\\!--", "<!-- tokenprior:begin -->", "<!-- tokenprior:end -->", '<!-- tokenprior {"a":1} -->'),
    *("\n", "\r\n", "\x85", "\u2028", "\n\n", "\n  ", "\n- [G1] ", "\n[G7] ", "\n## [G2] x", "\n> "),
    *("\n# Lessons from experience", "[G3] ", "[G3]. ", "**", "**a**: ", "\\", "\\**", ": ", '"', "'", "`", "---"),
    *("\n---\n", "# ", "- ", "{", "[", "&a", "*a", "!t", "%", "@", "|", ">", "?", "~", "null", "agent:", "\t"),
    *("helpful=1 harmful=2 :: ", "\u202e", "\x07", "é", "名", "😀"),
)
HOSTILE = st.sampled_from(PIECES)
TEXT = st.lists(HOSTILE | st.text(max_size=6), min_size=1, max_size=6).map("".join)
FIGURE = st.floats(-1, 1).map(lambda value: round(value, 4))
EFFECT = st.builds(
    lambda ends, mean, shrunk, tasks: Effect(
        mean=mean, low=min(ends), high=max(ends), shrunk=shrunk, tasks=tasks, rollouts=2 * tasks
    ),
    st.tuples(FIGURE, FIGURE),
    FIGURE,
    FIGURE,
    st.integers(0, 99),
)
IDS = st.lists(st.text("abt-0", min_size=1, max_size=5), max_size=3, unique=True).map(tuple)
PROVENANCE = st.builds(
    Provenance,
    run=TEXT.map(one_line),
    step=st.integers(0, 9),
    operation=st.sampled_from(["Add", "Modify", "Merge"]),
    reason=TEXT.map(one_line),
    groups=IDS,
    rollouts=IDS,
    parents=st.sampled_from([(), ("G1",)]),
)


def libraries(text: st.SearchStrategy[str], name: st.SearchStrategy[str]) -> st.SearchStrategy[Library]:
    lesson: Any = st.fixed_dictionaries(
        {"name": name, "text": text, "provenance": PROVENANCE, "effect": st.none() | EFFECT}
    )
    return st.builds(
        lambda lessons, numbers, more: Library(
            experiences=tuple(Experience(id=f"G{n}", **made) for n, made in zip(numbers, lessons, strict=False)),
            next_number=more,
        ),
        st.lists(lesson, max_size=3),
        st.permutations(range(5)),
        st.integers(0, 9),
    )


READABLE = TEXT.map(readable).filter(bool)
LIBRARIES = libraries(READABLE, st.just("") | TEXT.map(one_line))
# In a prompt nothing marks a lesson but its id at the start of a line.
ONE_LINE = libraries(READABLE.map(one_line), st.just(""))
laws = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def back(library: Library, form: str) -> Library:
    made = export(library, form, private="keep")
    reading = taken(FORMATS[form].loads(made, "import:x"))
    assert reading.notes == ()
    return reading.library


def words(library: Library) -> list[tuple[str, str, str]]:
    return [(e.id, e.name, e.text) for e in library]


@pytest.mark.parametrize("form", ["json", "markdown"])
@laws
@given(library=LIBRARIES)
def test_json_and_the_page_give_everything_back(form: str, library: Library) -> None:
    made = export(library, form, private="keep")
    assert form_of(made) == form
    assert back(library, form) == library


@pytest.mark.parametrize("form", ["section", "cursor", "skill"])
@laws
@given(library=LIBRARIES)
def test_a_section_gives_words_runs_and_effects_back(form: str, library: Library) -> None:
    assert form_of(export(library, form, private="keep")) == "section"
    again = back(library, form)
    assert words(again) == words(library)
    assert [e.effect for e in again] == [e.effect for e in library]
    for old, new in zip(library, again, strict=True):
        if old.provenance.run:
            assert (new.provenance.run, new.provenance.step) == (old.provenance.run, old.provenance.step)


@laws
@given(library=LIBRARIES, other=LIBRARIES, before=TEXT, after=TEXT)
def test_a_section_of_any_words_is_updated_in_place(library: Library, other: Library, before: str, after: str) -> None:
    own = f"{before}\n".replace("tokenprior:", "")
    file = export(library, "section", into=own, private="keep")
    assert file.startswith(own)
    file += after.replace("tokenprior:", "")
    changed = export(other, "section", into=file, private="keep")
    assert export(other, "section", into=changed, private="keep") == changed
    assert export(library, "section", into=changed, private="keep") == file
    assert words(FORMATS["section"].loads(changed, "x").library) == words(other)


@pytest.mark.parametrize("form", ["text", "system", "chat", "dspy", "gepa", "reference", "ace"])
@laws
@given(library=ONE_LINE)
def test_a_prompt_gives_ids_and_lines_back(form: str, library: Library) -> None:
    if len(library):
        again = back(library, form)
        assert [(e.id, e.line) for e in again] == [(e.id, e.line) for e in library]


@laws
@given(library=LIBRARIES)
def test_flat_json_gives_ids_and_lines_back(library: Library) -> None:
    assert [(e.id, e.line) for e in back(library, "flat")] == [(e.id, e.line) for e in library]


@pytest.mark.parametrize("form", ["system", "dspy", "gepa"])
@laws
@given(library=libraries(READABLE, st.just("")), other=ONE_LINE, own=TEXT)
def test_a_prior_is_replaced_and_not_doubled(form: str, library: Library, other: Library, own: str) -> None:
    into = export(Library(), form, instructions=own)
    once = export(other, form, into=into, private="keep")
    assert export(other, form, into=once, private="keep") == once
    assert export(Library(), form, into=once, private="keep") == into
    long = export(library, form, into=into, private="keep")
    assert export(library, form, into=long, private="keep") == long


@laws
@given(content=TEXT)
def test_any_text_is_read_or_refused_in_one_line(content: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "any"
    path.write_bytes(content.encode("utf-8", "replace"))
    for form in (None, *FORMATS):
        said = ""
        try:
            read(path, form)
        except DataError as error:
            said = str(error)
        assert "\n" not in said

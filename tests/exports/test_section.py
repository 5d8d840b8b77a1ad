"""A section in a file of a coding agent: put there, updated in place, read back, and never anything else touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprior.errors import ConfigError, DataError
from tokenprior.experience import Effect, Experience, Provenance
from tokenprior.exports import SECTIONS, export, read
from tokenprior.exports.section import BEGIN, END
from tokenprior.library import Library

EFFECT = Effect(mean=0.94444, low=0.86, high=1.0, shrunk=0.9, tasks=20, rollouts=120)
LIBRARY = Library(
    experiences=(
        Experience(
            id="G0",
            name="Plural forms",
            text="When a noun is given, reply with its plural form.",
            provenance=Provenance(run="demo-1a2b", step=2, reason="both say so", groups=("t1", "t2")),
            effect=EFFECT,
        ),
        Experience(id="G3", text="When a table has units, keep them."),
    )
)
OTHER = Library(experiences=(Experience(id="G5", text="When lost, ask."),))
SECTION = f"""{BEGIN}
## Lessons from experience

Follow those whose condition fits the task at hand:

- [G0] **Plural forms**: When a noun is given, reply with its plural form.
- [G3] When a table has units, keep them.

<!-- tokenprior {{"library":"{LIBRARY.version}","lessons":{{"{LIBRARY["G0"].key}":{{"run":"demo-1a2b","step":2,\
"operation":"Add","groups":2,"effect":[0.9444,0.86,1.0,0.9,20,120]}}}}}} -->
{END}
"""


def back(tmp_path: Path, text: str, form: str | None = None) -> Library:
    path = tmp_path / "AGENTS.md"
    path.write_bytes(text.encode())
    return read(path, form).library


def test_the_section_has_the_lessons_as_a_list_and_their_evidence_in_a_comment() -> None:
    assert export(LIBRARY, "section") == SECTION
    assert export(LIBRARY, "section", into="# Project\n\nUse tabs.\n") == f"# Project\n\nUse tabs.\n\n{SECTION}"


def test_what_comes_back_has_its_words_its_run_and_its_effect(tmp_path: Path) -> None:
    library = back(tmp_path, f"# Project\n{SECTION}\nUse tabs.\n")
    assert library.version == LIBRARY.version
    assert library["G0"].provenance == Provenance(run="demo-1a2b", step=2)
    assert library["G0"].effect == Effect(mean=0.9444, low=0.86, high=1.0, shrunk=0.9, tasks=20, rollouts=120)
    assert library["G3"].provenance == Provenance(run="import:AGENTS.md", operation="Import")


def test_a_lesson_that_was_reworded_by_hand_has_no_effect_known(tmp_path: Path) -> None:
    path = tmp_path / "CLAUDE.md"
    added = "- When in doubt, say so.\nA stray line.\n"
    path.write_text(SECTION.replace("its plural form.", "its plural.").replace("keep them.\n", f"keep them.\n{added}"))
    reading = read(path)
    assert reading.library["G0"].effect is None
    assert reading.library["G4"].text == "When in doubt, say so."
    assert reading.notes == (
        "line 9 is no lesson and is left out: A stray line.",
        "G0 was reworded since it was exported: its effect and where it came from are left out",
    )


HAND = st.text(st.sampled_from("ab#-<>!\\`*[] \t\ufeff\r\n\u2028"), max_size=40)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(HAND, HAND)
def test_an_update_changes_the_section_and_not_a_byte_besides(before: str, after: str) -> None:
    once = export(LIBRARY, "section", into=before)
    assert once.startswith(before)
    assert export(LIBRARY, "section", into=once) == once
    between = f"{before}\n{SECTION}\n{after}"
    head, _, rest = between.partition(BEGIN)
    _, _, tail = rest.partition(END)
    changed = export(OTHER, "section", into=between)
    assert changed.startswith(head + BEGIN)
    assert changed.endswith(END + tail)
    assert export(LIBRARY, "section", into=changed) == export(LIBRARY, "section", into=between)


@pytest.mark.parametrize(
    ("before", "newline", "after"),
    [
        ("\ufeff", "\n", ""),
        ("a\n", "\n", ""),
        ("# A\r\n\r\n", "\r\n", "\r\nlast\r\n"),
        ("# A\r\n\tx\n\n\n", "\n", "\nno end of line"),
        ("  ", "\r\n", " \t"),
    ],
    ids=["byte order mark", "no line end", "CRLF", "mixed line ends", "spaces"],
)
def test_line_ends_and_marks_of_a_file_stay_as_they_are(before: str, newline: str, after: str) -> None:
    made = export(LIBRARY, "section", into=f"{before}{BEGIN}{newline}{END}{after}")
    section = SECTION.removesuffix("\n").replace("\n", newline)
    assert made == f"{before}{section}{after}"
    assert export(LIBRARY, "section", into=before).startswith(before)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{BEGIN}\n", "begin in line 1"),
        (f"\n{END}", "end in line 2"),
        (f"{END}\n{BEGIN}", "end in line 1, begin in line 2"),
        (f"{SECTION}\n{SECTION}", "begin in line 1, end in line 10, begin in line 12, end in line 21"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", "begin in line 1, begin in line 2, end in line 3"),
        (f"note {BEGIN}\n{END}", "begin in line 1, end in line 2"),
        (f"{BEGIN}\n{END} of it", "begin in line 1, end in line 2"),
        ("<!-- tokenprior:begin\n-->", "begin in line 1"),
        ("<!--tokenprior:BEGIN-->\n", "begin in line 1"),
    ],
)
@pytest.mark.parametrize("form", sorted(SECTIONS))
def test_broken_or_doubled_markers_are_refused_in_one_line(text: str, found: str, form: str) -> None:
    with pytest.raises(DataError) as caught:
        export(LIBRARY, form, into=text)
    assert str(caught.value) == (
        f"expected one line `{BEGIN}` and after it one line `{END}`, got {found}: repair or delete these markers"
    )


def test_thousands_of_markers_are_refused_in_a_short_line() -> None:
    with pytest.raises(DataError) as caught:
        export(LIBRARY, "section", into=f"{BEGIN}\n" * 5_000)
    assert len(str(caught.value)) < 400


def test_an_empty_library_leaves_the_place(tmp_path: Path) -> None:
    made = export(Library(), "section", into=f"a\n\n{SECTION}b\n")
    assert made == f"a\n\n{BEGIN}\n{END}\nb\n"
    assert len(back(tmp_path, made)) == 0


def test_a_rule_of_cursor_has_its_front_matter_and_keeps_what_is_there(tmp_path: Path) -> None:
    made = export(LIBRARY, "cursor")
    front = made.split("---\n")[1]
    assert yaml.safe_load(front) == {"description": "Lessons from experience", "alwaysApply": True}
    assert made.endswith(f"---\n\n{SECTION}")
    mine = made.replace("alwaysApply: true", "globs: '*.py'\nalwaysApply: false")
    assert export(LIBRARY, "cursor", into=mine) == mine
    assert back(tmp_path, mine, "cursor").version == LIBRARY.version


def test_a_skill_has_the_front_matter_of_the_format(tmp_path: Path) -> None:
    made = export(LIBRARY, "skill", name="plural-forms")
    _, front, body = made.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert list(fields) == ["name", "description"]
    assert fields["name"] == "plural-forms"
    assert fields["description"].endswith("one of these: Plural forms; When a table has units, keep them.")
    assert body == f"\n{SECTION}"
    assert back(tmp_path, made).version == LIBRARY.version
    mine = made.replace("Gives lessons from an agent's own attempts", "Mine")
    assert export(LIBRARY, "skill", into=mine) == mine


def test_the_description_of_a_skill_keeps_to_the_limits_of_the_format() -> None:
    hostile = "Say: \"<b>'x'</b>\" # [no] {it: &a *b} !c % @ ` | > - ? \\\u2028é名"
    many = Library(experiences=tuple(Experience(id=f"G{i}", name=hostile, text="When a, b.") for i in range(60)))
    for library in (many, Library(), Library(experiences=(Experience(id="G0", name="---", text="x"),))):
        front = export(library, "skill").split("\n---\n")[0].removeprefix("---\n")
        description = yaml.safe_load(front)["description"]
        assert 0 < len(description) <= 1_024
        assert not set("<>\n") & set(description)


@pytest.mark.parametrize("name", ["Plural", "-a", "a-", "a--b", "a_b", "é", "a" * 65, "a b", "a\n", "../a"])
def test_a_name_that_is_none_of_a_skill_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a skill: expected small letters"):
        export(LIBRARY, "skill", name=name)

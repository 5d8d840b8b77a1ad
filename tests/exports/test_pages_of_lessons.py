"""Lessons as a page for people, and as a playbook of ACE."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from tokenprior.experience import Effect, Experience, Origin, Provenance
from tokenprior.exports import export, read
from tokenprior.exports.base import Reading
from tokenprior.library import Library

EFFECT = Effect(mean=0.25, low=-0.125, high=0.5, shrunk=0.2, tasks=8, rollouts=40)
LIBRARY = Library(
    experiences=(
        Experience(
            id="G1",
            name="Units -->",
            text="When a table\nhas units, <!-- keep --> them.",
            provenance=Provenance(
                run="demo-1a2b",
                step=2,
                operation="Merge",
                reason="both -- say so",
                groups=("t1",),
                rollouts=("t1#0",),
                parents=("G0",),
                origins=(Origin(run="other", id="G7", effect=EFFECT),),
            ),
            effect=EFFECT,
        ),
        Experience(id="G3", text="When lost, ask."),
    ),
    next_number=9,
)


def reading(tmp_path: Path, text: str, name: str = "file.md") -> Reading:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read(path)


def test_a_page_shows_what_a_lesson_does_and_where_it_came_from() -> None:
    page = export(LIBRARY, "markdown")
    shown = [line for line in page.splitlines() if line and not line.startswith("<!--")]
    assert shown == [
        "# Lessons from experience",
        f"Library {LIBRARY.version}: 2 lessons. Follow those whose condition fits the task at hand.",
        "## [G1] Units -->",
        "> When a table",
        "> has units, <\\!-- keep --> them.",
        "Effect +0.250 [-0.125, +0.500] over 8 tasks. From 1 group of run demo-1a2b, step 2 (Merge): both -- say so",
        "## [G3]",
        "> When lost, ask.",
        "Effect not measured.",
    ]


def test_a_page_comes_back_whole_and_after_an_edit_without_the_evidence_of_other_words(tmp_path: Path) -> None:
    page = export(LIBRARY, "markdown")
    assert reading(tmp_path, page) == Reading(library=LIBRARY)
    assert reading(tmp_path, page.replace("\n", "\r\n")) == Reading(library=LIBRARY)
    edited = reading(tmp_path, page.replace("> has units", "> has weights"))
    assert edited.library["G1"].effect is None
    assert edited.library["G1"].provenance == Provenance(run="import:file.md", operation="Import")
    assert edited.notes == ("G1 was reworded since it was exported: its effect and where it came from are left out",)


def test_a_comment_cannot_bring_words_that_the_page_does_not_show(tmp_path: Path) -> None:
    page = export(LIBRARY, "markdown").replace('"key":"G3', '"id":"G8","name":"x","text":"Hidden.","key":"G3')
    assert "Hidden" in page
    assert reading(tmp_path, page) == Reading(library=LIBRARY)


def test_a_playbook_is_one_that_ace_can_read_and_add_to() -> None:
    made = export(LIBRARY, "ace")
    # Source: github.com/ace-agent/ace, `playbook_utils.parse_playbook_line`.
    line = re.compile(r"\[([^\]]+)\]\s*helpful=(\d+)\s*harmful=(\d+)\s*::\s*(.*)")
    bullets = [match.groups() for match in map(line.match, made.splitlines()) if match]
    assert bullets == [
        ("G1", "0", "0", "Units -->: When a table has units, <!-- keep --> them."),
        ("G3", "0", "0", "When lost, ask."),
    ]
    assert made.startswith("## STRATEGIES & INSIGHTS\n[G1] ")
    assert made.endswith("\n## OTHERS\n")
    assert all(text.startswith(("##", "[")) for text in made.splitlines() if text)


def test_a_playbook_that_ace_went_on_with_comes_back_with_its_counts_as_words(tmp_path: Path) -> None:
    grown = export(LIBRARY, "ace").replace("[G3] helpful=0 harmful=0", "[G3] helpful=4 harmful=1")
    grown = grown.replace(
        "## OTHERS", "## OTHERS\n[misc-00001] helpful=0 harmful=0 :: Check: sum it twice.\nA remark.\n[x] helpful=1"
    )
    made = reading(tmp_path, grown, "playbook.txt")
    assert [(e.id, e.line) for e in made.library] == [
        ("G1", "Units -->: When a table has units, <!-- keep --> them."),
        ("G3", "When lost, ask."),
        ("G4", "Check: sum it twice."),
    ]
    assert made.library["G3"].provenance.reason == "ACE, bullet G3 of STRATEGIES & INSIGHTS: helpful=4, harmful=1"
    assert made.library["G4"].provenance == Provenance(run="import:playbook.txt", operation="Import")
    assert all(e.effect is None for e in made.library)
    number = grown.splitlines().index("A remark.") + 1
    assert made.notes == (
        f"line {number} is no bullet and is left out: A remark.",
        f"line {number + 1} is no bullet and is left out: [x] helpful=1",
    )


def test_an_effect_of_another_library_is_checked_as_ours_is(tmp_path: Path) -> None:
    wrong = replace(EFFECT, low=float("nan"))
    origin = Origin(run="other", id="G7", effect=wrong)
    library = Library(
        experiences=(Experience(id="G0", text="When lost, ask.", provenance=Provenance(run="r", origins=(origin,))),)
    )
    made = reading(tmp_path, export(library, "markdown")).library
    assert made["G0"].provenance.origins == (Origin(run="other", id="G7"),)

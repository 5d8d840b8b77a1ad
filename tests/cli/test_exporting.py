"""tokenprior export and import, as a user types them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from story import error, fill, run, said
from tokenprior.experience import Experience, Provenance
from tokenprior.library import Library

LIBRARY = Library(
    experiences=(
        Experience(id="G0", name="Plural", text="When a noun is given, reply with its plural form."),
        Experience(id="G3", text="When lost, ask.", provenance=Provenance(run="demo-1a2b", groups=("t1",))),
    )
)
PRIVATE = Library(experiences=(Experience(id="G1", text="When lost, write to ann@corp.example.dev."),))


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    path = tmp_path / "l.json"
    path.write_text(LIBRARY.dumps(), encoding="utf-8")
    return path


def test_a_section_is_put_into_a_file_and_updated_there(lessons: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "AGENTS.md", tmp_path / "CLAUDE.md"
    target.write_bytes(b"# Project\r\n\r\nUse tabs.")
    target.chmod(0o640)
    link.symlink_to("AGENTS.md")
    told = said("export", lessons, "--form", "section", "--into", link)
    assert told == f"{link}: updated, 2 lessons, library {LIBRARY.version}\n"
    made = target.read_bytes()
    assert made.startswith(b"# Project\r\n\r\nUse tabs.\r\n\r\n<!-- tokenprior:begin -->\r\n")
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert ": is up to date, 2 lessons" in said("export", lessons, "--form", "section", "--into", target)
    assert target.read_bytes() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["AGENTS.md", "CLAUDE.md", "l.json"]


def test_what_was_exported_is_imported_and_what_could_not_be_taken_is_said(lessons: Path, tmp_path: Path) -> None:
    file, back = tmp_path / "GEMINI.md", tmp_path / "back.json"
    assert said("export", lessons, "--form", "section", "--into", file).startswith(f"{file}: written, 2 lessons")
    file.write_text(file.read_text().replace("lost, ask.", "lost, ask!").replace("- [G0]", "stray\n- [G0]"))
    ended = run("import", file, "--to", back)
    assert ended.stdout.startswith(f"{back}: 2 experiences, library ")
    assert ended.stderr.splitlines() == [
        "note: line 6 is no lesson and is left out: stray",
        "note: G3 was reworded since it was exported: its effect and where it came from are left out",
    ]
    file.write_text(file.read_text().replace("stray\n", "stray\n" * 30))
    assert run("import", file, "--to", back).stderr.endswith("note: and 11 more of the kind\n")
    assert error("import", file, "--to", back, "--form", "ace") == (
        f"{file}: holds no bullet of an ACE playbook, such as `[id] helpful=0 harmful=0 :: text`"
    )


def test_a_file_to_merge_into_may_stay_as_it_is(lessons: Path, tmp_path: Path) -> None:
    prompt, new = tmp_path / "prompt.txt", tmp_path / "new.txt"
    prompt.write_text("Be brief.\n")
    said("export", lessons, "--form", "system", "--into", prompt, "--to", new)
    assert prompt.read_text() == "Be brief.\n"
    assert new.read_text().startswith("Be brief.\n\nLessons from experience.")


def test_a_file_that_an_agent_reads_has_its_folder_made(lessons: Path, tmp_path: Path) -> None:
    for form, place in (("section", "a/b/AGENTS.md"), ("cursor", ".cursor/rules/x.mdc"), ("skill", "c/forms/SKILL.md")):
        assert "written, 2 lessons" in said("export", lessons, "--form", form, "--into", tmp_path / place)
    one = tmp_path / "one.json"
    one.write_text(LIBRARY.only(["G0"]).dumps(), encoding="utf-8")
    assert "updated, 1 lesson, " in said("export", one, "--form", "section", "--into", tmp_path / "a/b/AGENTS.md")


def test_a_skill_is_called_as_its_folder_is(lessons: Path, tmp_path: Path) -> None:
    skill = tmp_path / "plural-forms/SKILL.md"
    said("export", lessons, "--form", "skill", "--to", skill)
    assert skill.read_text().startswith("---\nname: plural-forms\n")
    wrong = tmp_path / "Plural_Forms/SKILL.md"
    assert error("export", lessons, "--form", "skill", "--to", wrong).startswith(
        "'Plural_Forms' is no name of a skill: expected small letters"
    )
    assert not wrong.parent.exists()


def test_a_state_has_the_users_instructions_before_the_lessons(lessons: Path) -> None:
    made = said("export", lessons, "--form", "dspy", "--instructions", "Be brief.")
    assert json.loads(made)["signature"]["instructions"].startswith("Be brief.\n\nLessons from experience.")


def test_private_data_is_refused_or_masked(tmp_path: Path) -> None:
    private, target = tmp_path / "private.json", tmp_path / "AGENTS.md"
    private.write_text(PRIVATE.dumps(), encoding="utf-8")
    target.write_text("mine\n")
    command = ("export", private, "--form", "section", "--into", target)
    assert error(*command) == (
        "private data in G1 (e-mail address): reword it, or export with `--private mask`, or with `--private keep` if "
        "it may be seen"
    )
    assert target.read_text() == "mine\n"
    said(*command, "--private", "mask")
    assert "write to [e-mail address]" in target.read_text()
    assert "private is 'no': choose one of refuse, mask, keep" in error(*command, "--private", "no")


def test_what_cannot_be_merged_into_is_one_line_and_stays(lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.md").write_text("<!-- tokenprior:begin -->\n")
    (tmp_path / "latin.md").write_bytes(b"caf\xe9\n")
    (tmp_path / "state.json").write_text('{"a": 1}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for into, form, words in (
        ("broken.md", "section", "broken.md: expected one line `<!-- tokenprior:begin -->`"),
        ("latin.md", "section", "latin.md: cannot be read: not UTF-8"),
        ("state.json", "dspy", "state.json: expected the state of a DSPy program"),
        ("misspelt.txt", "system", "misspelt.txt: no such file to merge into"),
        (".", "section", ": cannot be read: Is a directory"),
    ):
        assert words in error("export", lessons, "--form", form, "--into", tmp_path / into)
    assert "the form json takes no 'into'" in error("export", lessons, "--form", "json", "--into", lessons)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_is_exported_with_what_was_measured_last(tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    asyncio.run(fill(store, "story", inclusion_pairs=1))
    shown = said("show", "story", "--store", store)
    assert "effect +0." in shown, "measured after it shipped"
    page = said("export", "story", "--form", "markdown", "--store", store)
    effects = [line.strip() for line in shown.splitlines() if line.startswith("      effect")]
    assert [line.split(". From")[0].lower() for line in page.splitlines() if line.startswith("Effect")] == effects


def test_a_file_is_written_whole_or_its_name_is_said(lessons: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tokenprior", "export", str(lessons), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )

    ended = command("--to", "none/x.txt")
    assert (ended.returncode, ended.stderr) == (1, "tokenprior: none/x.txt: No such file or directory\n")
    assert command("--to", "/dev/stdout").stdout.endswith("[G3] When lost, ask.\n"), "a device is not replaced"
    if os.geteuid():
        (tmp_path / "x.txt").touch(0o444)
        ended = command("--to", "x.txt")
        assert (ended.returncode, ended.stderr) == (1, "tokenprior: x.txt: Permission denied\n")

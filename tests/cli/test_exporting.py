"""tokenprior export and import, as a user types them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

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
def home(tmp_path: Path) -> Path:
    (tmp_path / "l.json").write_text(LIBRARY.dumps(), encoding="utf-8")
    (tmp_path / "private.json").write_text(PRIVATE.dumps(), encoding="utf-8")
    return tmp_path


def tokenprior(*arguments: object, cwd: Path, code: int = 0) -> tuple[str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "tokenprior", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr


def test_a_section_is_put_into_a_file_and_updated_there(home: Path) -> None:
    target = home / "AGENTS.md"
    target.write_bytes(b"# Project\r\n\r\nUse tabs.")
    target.chmod(0o640)
    (home / "CLAUDE.md").symlink_to("AGENTS.md")
    said, _ = tokenprior("export", "l.json", "--form", "section", "--into", "CLAUDE.md", cwd=home)
    assert said == f"CLAUDE.md: updated, 2 lessons, library {LIBRARY.version}\n"
    made = target.read_bytes()
    assert made.startswith(b"# Project\r\n\r\nUse tabs.\r\n\r\n<!-- tokenprior:begin -->\r\n")
    assert (home / "CLAUDE.md").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    said, _ = tokenprior("export", "l.json", "--form", "section", "--into", "AGENTS.md", cwd=home)
    assert "AGENTS.md: is up to date, 2 lessons" in said
    assert target.read_bytes() == made
    assert sorted(path.name for path in home.iterdir()) == ["AGENTS.md", "CLAUDE.md", "l.json", "private.json"]


def test_what_was_exported_is_imported_and_what_could_not_be_taken_is_said(home: Path) -> None:
    tokenprior("export", "l.json", "--form", "section", "--into", "GEMINI.md", cwd=home)
    file = home / "GEMINI.md"
    file.write_text(file.read_text().replace("lost, ask.", "lost, ask!").replace("- [G0]", "stray\n- [G0]"))
    said, noted = tokenprior("import", "GEMINI.md", "--to", "back.json", cwd=home)
    assert said.startswith("back.json: 2 experiences, library ")
    assert noted.splitlines() == [
        "note: line 6 is no lesson and is left out: stray",
        "note: G3 was reworded since it was exported: its effect and where it came from are left out",
    ]
    _, error = tokenprior("import", "GEMINI.md", "--to", "b.json", "--form", "ace", cwd=home, code=2)
    assert error == (
        "tokenprior: GEMINI.md: holds no bullet of an ACE playbook, such as `[id] helpful=0 harmful=0 :: text`\n"
    )


def test_a_file_to_merge_into_may_stay_as_it_is(home: Path) -> None:
    (home / "prompt.txt").write_text("Be brief.\n")
    tokenprior("export", "l.json", "--form", "system", "--into", "prompt.txt", "--to", "new.txt", cwd=home)
    assert (home / "prompt.txt").read_text() == "Be brief.\n"
    assert (home / "new.txt").read_text().startswith("Be brief.\n\nLessons from experience.")


def test_a_skill_is_called_as_its_folder_is(home: Path) -> None:
    tokenprior("export", "l.json", "--form", "skill", "--to", "plural-forms/SKILL.md", cwd=home)
    assert (home / "plural-forms/SKILL.md").read_text().startswith("---\nname: plural-forms\n")
    _, error = tokenprior("export", "l.json", "--form", "skill", "--to", "Plural_Forms/SKILL.md", cwd=home, code=2)
    assert error.startswith("tokenprior: 'Plural_Forms' is no name of a skill: expected small letters")
    assert not (home / "Plural_Forms").exists()


def test_a_state_has_the_users_instructions_before_the_lessons(home: Path) -> None:
    made, _ = tokenprior("export", "l.json", "--form", "dspy", "--instructions", "Be brief.", cwd=home)
    assert json.loads(made)["signature"]["instructions"].startswith("Be brief.\n\nLessons from experience.")


def test_private_data_is_refused_or_masked(home: Path) -> None:
    (home / "AGENTS.md").write_text("mine\n")
    arguments = ("export", "private.json", "--form", "section", "--into", "AGENTS.md")
    _, error = tokenprior(*arguments, cwd=home, code=2)
    assert error == (
        "tokenprior: private data in G1 (e-mail address): reword it, or export with `--private mask`, or with "
        "`--private keep` if it may be seen\n"
    )
    assert (home / "AGENTS.md").read_text() == "mine\n"
    tokenprior(*arguments, "--private", "mask", cwd=home)
    assert "write to [e-mail address]" in (home / "AGENTS.md").read_text()


def test_what_cannot_be_merged_into_is_one_line_and_stays(home: Path) -> None:
    (home / "broken.md").write_text("<!-- tokenprior:begin -->\n")
    (home / "latin.md").write_bytes(b"caf\xe9\n")
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for into, form, words in (
        ("broken.md", "section", "broken.md: expected one line `<!-- tokenprior:begin -->`"),
        ("latin.md", "section", "latin.md: cannot be read: not UTF-8"),
        ("misspelt.txt", "system", "misspelt.txt: no such file to merge into"),
    ):
        _, error = tokenprior("export", "l.json", "--form", form, "--into", into, cwd=home, code=2)
        assert error.startswith(f"tokenprior: {words}")
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_a_file_is_written_whole_or_not_at_all(home: Path) -> None:
    _, error = tokenprior("export", "l.json", "--to", "none/x.txt", cwd=home, code=1)
    assert error == "tokenprior: none/x.txt: No such file or directory\n"
    said, _ = tokenprior("export", "l.json", "--to", "/dev/stdout", cwd=home)
    assert said.endswith("[G3] When lost, ask.\n"), "a device is written to, not replaced"
    if os.geteuid():
        (home / "x.txt").touch(0o444)
        _, error = tokenprior("export", "l.json", "--to", "x.txt", cwd=home, code=1)
        assert error == "tokenprior: x.txt: Permission denied\n"

"""history, rollback, pin, and every place where a version of a run can be named."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from story import LOUD, error, fill, loud, run, said
from tokenprior.cli.learn import report
from tokenprior.experience import Experience
from tokenprior.learn import LearnResult
from tokenprior.library import Library
from tokenprior.store import open_store

START = Library(experiences=(Experience(id="G0", text="When asked, answer."),))
LEARNED: dict[str, LearnResult] = {}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "s.db"
    LEARNED["story"] = asyncio.run(fill(path, "story", inclusion_pairs=1))
    LEARNED["loud"] = asyncio.run(
        fill(path, "loud", loud, gate="none", inclusion_pairs=2, group_size=4, epochs=3),
    )
    LEARNED["never"] = asyncio.run(fill(path, "never", loud, gate="no-harm", epochs=1))
    LEARNED["given"] = asyncio.run(fill(path, "given", start=START, gate="none", epochs=1))
    return path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    """A copy, for what changes it."""
    return Path(shutil.copy(filled, tmp_path / "s.db"))


def versions(store: Path, name: str) -> list[str]:
    with open_store(store) as opened:
        return [one.version for one in opened.versions(f"{name}-1a2b")]


def test_history_tells_each_version_with_its_evidence(filled: Path) -> None:
    lines = said("history", "story", "--store", filled).splitlines()
    assert re.match(r"start    [0-9a-f]{12}  0 experiences   what the run began with$", lines[0])
    assert re.match(r"step 0   [0-9a-f]{12}  2 experiences   the candidate ships: \+0\.393 \[.*\]", lines[1])
    assert lines[1].endswith("<- ships")
    assert "1 of 2" not in "".join(lines), "what was tried before has no second trial"
    refused = [line for line in lines if "refused, for it did worse" in line]
    assert [line[:6] for line in refused] == ["step 2", "step 2"]
    assert sum("learning goes on from it" in line for line in lines) == 1
    assert sum("<- ships" in line for line in lines) == 1
    assert lines[-1] == f"used: {versions(filled, 'story')[1]}, 2 experiences"


def test_history_without_a_gate_tells_what_was_learned_and_what_hurt(filled: Path) -> None:
    start, first, last, used = said("history", "loud", "--store", filled).splitlines()
    assert "learned, no gate" in first
    assert "lessons deleted, measured to hurt: G0  <- ships" in last
    assert start.split()[1] == last.split()[2] == used.split()[1].rstrip(","), "it is back at where it began"


def test_history_as_json_holds_the_figures(filled: Path) -> None:
    value = json.loads(said("history", "story", "--json", "--store", filled))
    assert value["run"] == "story-1a2b"
    assert value["used"] == value["versions"][1]["version"]
    assert [one["ships"] for one in value["versions"]].count(True) == 1
    assert value["versions"][1]["trial"]["gain"]["mean"] > 0.3
    assert value["pins"] == []


def test_rollback_goes_back_to_what_shipped_before_and_can_be_undone(store: Path) -> None:
    start, first, *_ = versions(store, "story")
    lines = said("rollback", "story", "--reason", "it talks too much", "--store", store).splitlines()
    assert lines[0] == f"story-1a2b uses library {start} (0 experiences, pinned); before: {first}"
    assert lines[1] == f"undo: tokenprior pin story-1a2b --off --store {store}"
    history = said("history", "story", "--store", store)
    assert f"pinned {start}  it talks too much" in history
    assert f"used: {start}, 0 experiences" in history
    assert "<- pinned" in history.splitlines()[0]
    assert said("export", "story", "--store", store) == ""
    assert f"nothing shipped before {start}" in error("rollback", "story", "--store", store)
    undone = said("pin", "story", "--off", "--store", store)
    assert f"uses library {first} (2 experiences, what learning ships); before: {start}" in undone
    assert f"undo: tokenprior pin story-1a2b {start}" in undone
    with open_store(store) as opened:
        assert len(opened.rows("pins", "story-1a2b")) == 2, "nothing is taken back, only added"


def test_rollback_from_a_version_that_never_shipped_goes_to_what_shipped_when_it_was_tried(store: Path) -> None:
    _, shipped, tried, *_ = versions(store, "story")
    said("pin", "story", tried[:6], "--store", store)
    assert f"uses library {shipped} " in said("rollback", "story", "--store", store)


def test_rollback_and_pin_take_a_version_or_a_step(store: Path) -> None:
    _, shipped, tried, *_ = versions(store, "story")
    assert f"uses library {tried} " in said("rollback", "story", "--to", tried.upper(), "--store", store)
    assert f"uses library {shipped} " in said("pin", "story", "5", "--store", store), "what shipped after the step"


def test_what_cannot_be_pinned_or_rolled_back_is_one_line(store: Path) -> None:
    assert "expected either a version or --off" in error("pin", "story", "--store", store)
    assert "expected either a version or --off" in error("pin", "story", "1a", "--off", "--store", store)
    assert "no version is pinned" in error("pin", "story", "--off", "--store", store)
    assert "'xyz': expected the beginning of a version" in error("pin", "story", "xyz", "--store", store)
    assert "has no step 99" in error("pin", "story", "99", "--store", store)
    assert "has no version 'ffffff'" in error("rollback", "story", "--to", "ffffff", "--store", store)
    assert "nothing shipped before" in error("rollback", "never", "--store", store)
    said("pin", "given", versions(store, "given")[1], "--store", store)
    begun = versions(store, "given")[0]
    assert f"given-1a2b uses library {begun} (" in said("rollback", "given", "--store", store)
    assert "no run 'none'" in error("history", "none", "--store", store)
    with open_store(store) as opened:
        assert opened.rows("pins", "story-1a2b") == []


def test_looking_makes_no_store(tmp_path: Path) -> None:
    for command in (["history", "x"], ["rollback", "x"], ["pin", "x", "1a"], ["why", "x", "G0"]):
        assert "no such store" in error(*command, "--store", tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_version_can_be_named_wherever_a_library_is(store: Path) -> None:
    start, shipped, tried, *_ = versions(store, "story")
    assert said("diff", f"story:{shipped[:8]}", "story", "--store", store) == "the same library\n"
    assert said("diff", f"story:{tried[:8]}", "story:1", "--store", store) == "the same library\n"
    assert json.loads(said("export", f"story:{tried}", "--form", "json", "--store", store))["version"] == tried
    assert said("diff", f"story:{start}", f"story:{shipped}", "--store", store).count("  + ") == 2
    for wrong in ("story:", "story:xyz", "story:-1", f"story:{tried}0"):
        assert "expected RUN:STEP" in error("export", wrong, "--store", store)
    assert "has no version 'ffffff'" in error("export", "story:ffffff", "--store", store)


def test_show_is_of_what_is_used_and_says_what_learning_goes_on_from(store: Path) -> None:
    shown = run("show", "story", "--store", store)
    assert shown.stdout.count("\n[G") + shown.stdout.startswith("[G") == 2
    assert "effect +0." in shown.stdout, "measured after it shipped, of the same words"
    assert "effect not measured" in shown.stdout
    assert "is used (what ships); learning goes on from" in shown.stderr
    assert f"tokenprior show story-1a2b library --step 5 --store {store}" in shown.stderr
    assert run("show", "story", "--step", "5", "--store", store).stderr == ""
    said("rollback", "story", "--reason", "for now", "--store", store)
    shown = run("show", "story", "--store", store)
    assert shown.stdout == "the library is empty\n"
    assert "is used (pinned: for now)" in shown.stderr


def test_the_report_says_what_ships_and_what_waits(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report("story-1a2b", LEARNED["story"], gated=True)
    text = capsys.readouterr().out
    assert re.search(
        r"Ships: 2 lessons \([0-9a-f]{12}\), proven on the gate tasks: \+0\.393 \[\+0\.\d+, \+0\.\d+\]", text
    )
    assert "It was chosen by that figure" in text
    assert "`tokenprior compare`" in text
    assert "2 lessons wait for more evidence:" in text
    assert "    gate: the candidate ships: +0.393" in text


def test_the_report_without_a_gate_says_that_nothing_was_proven(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report("given-1a2b", LEARNED["given"], gated=False)
    text = capsys.readouterr().out
    assert "No gate: nothing was proven." in text
    assert "Ships" not in text
    report("loud-1a2b", LEARNED["loud"], gated=False)
    text = capsys.readouterr().out
    assert "    G0 hurts and was deleted: effect -0." in text
    assert "Nothing was learned: the library is empty." in text


def test_the_report_of_a_gate_that_refused_all_says_what_still_ships(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report("never-1a2b", LEARNED["never"], gated=True)
    text = capsys.readouterr().out
    assert LOUD not in text
    assert "Nothing was proven: what shipped before still ships, no lessons (" in text
    assert "wait" not in text

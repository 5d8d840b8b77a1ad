"""Edits by hand: all or none, with an author and a reason, on what is used; and the command for them."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import story
import world
from story import error, said
from tokenprior.errors import EditRefused
from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.operation import Add, Delete, Merge, Modify
from tokenprior.store import Store, open_store
from tokenprior.store.edits import BY_HAND, edit
from tokenprior.store.life import gone_of, life_of

RUN = "plain-1a2b"
WORDS = "When one word is asked for, reply with that word alone."
START = Library(
    experiences=(
        Experience(id="G0", name="Kept", text="When asked for a word, answer with it."),
        Experience(id="G1", text="When nothing is asked for, say nothing at all."),
    )
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with a library and learned a lesson more; nothing in it is changed."""
    path = tmp_path_factory.mktemp("edits") / "s.db"
    asyncio.run(story.fill(path, "plain", world.learner, gate="none", epochs=1, start=START))
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "s.db"))


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def test_what_was_edited_is_used_and_can_be_found_by_its_version(store: Store) -> None:
    before = store.library(RUN)
    made = edit(store, RUN, [Modify(id="G1", name="", text=WORDS)], author="ana", reason="clearer")
    assert made["G1"].text == WORDS
    assert made["G1"].provenance.run == "edit:ana"
    assert made["G1"].provenance.reason == "clearer"
    assert store.library(RUN) == store.library(RUN, made.version) == store.library(RUN, made.version[:6]) == made
    assert store.library(RUN, 2) != made, "learning goes on from its own"
    last = store.versions(RUN)[-1]
    assert (last.version, last.origin, last.pinned, last.step) == (made.version, "edited", True, 2)
    assert last.sentences == ("edited by ana: clearer",)
    store.pin(RUN, None, "undone")
    assert store.library(RUN) == before


def test_one_operation_that_does_not_fit_keeps_all_from_being_done(store: Store) -> None:
    before = store.library(RUN)
    with pytest.raises(EditRefused, match=r"G9: there is no G9; nothing was changed"):
        edit(store, RUN, [Delete(id="G0"), Delete(id="G9")], author="ana", reason="x")
    with pytest.raises(EditRefused, match="the new lesson: G1 says the same"):
        edit(store, RUN, [Add(name="", text=before["G1"].text)], author="ana", reason="x")
    with pytest.raises(EditRefused, match="a merge needs at least two ids"):
        edit(store, RUN, [Merge(ids=("G0",), name="", text=WORDS)], author="ana", reason="x")
    assert store.library(RUN) == before
    assert store.rows("edits", RUN) == store.rows("pins", RUN) == []


@pytest.mark.parametrize(("author", "reason"), [("", "x"), ("ana", ""), (" \n", "x"), ("ana", "\u202e")])
def test_an_edit_has_an_author_and_a_reason(store: Store, author: str, reason: str) -> None:
    with pytest.raises(EditRefused, match="for whoever reads the history"):
        edit(store, RUN, [Delete(id="G0")], author=author, reason=reason)


def test_a_library_at_its_bounds_takes_nothing_more_by_hand(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        config = {"learn": {"library": {"max_experiences": 2, "max_tokens": 2000, "max_words": 32}}}
        record = store.open_run("small-1", name="small", kind="learn", config=config)
        asyncio.run(record.save_start(START))
        record.close("done")
        with pytest.raises(EditRefused, match="would have to go: the library is over its bound of 2 experiences"):
            edit(store, "small-1", [Add(name="", text=WORDS)], author="ana", reason="x")
        assert edit(store, "small-1", [Delete(id="G1"), Add(name="", text=WORDS)], author="ana", reason="x")
        assert [one.origin for one in store.versions("small-1")] == ["start", "edited"]


def test_an_id_given_by_hand_is_never_one_that_learning_gives(store: Store) -> None:
    first = edit(store, RUN, [Add(name="", text=WORDS)], author="ana", reason="x")
    assert first.experiences[-1].id == f"G{BY_HAND}"
    store.pin(RUN, None, "undone")
    other = "When in doubt about the letters of a word, spell it out."
    second = edit(store, RUN, [Add(name="", text=other)], author="ana", reason="x")
    assert second.experiences[-1].id == f"G{BY_HAND + 1}", "the other id stays that of the first lesson"


def test_a_form_made_from_what_is_no_longer_used_is_refused(store: Store) -> None:
    seen = store.library(RUN).version
    edit(store, RUN, [Delete(id="G1")], author="bob", reason="x", made_from=seen)
    with pytest.raises(EditRefused, match=f"this was made from {seen}"):
        edit(store, RUN, [Delete(id="G0")], author="ana", reason="x", made_from=seen)
    assert "G0" in store.library(RUN)


def test_of_many_who_edit_the_same_version_at_once_one_wins(path: Path) -> None:
    """From processes of their own as from threads: what is checked and what is written is one transaction."""
    outcomes: list[str] = []
    ready = threading.Barrier(4)

    def work(number: int) -> None:
        with open_store(path) as store:
            seen = store.library(RUN).version
            ready.wait()
            try:
                edit(store, RUN, [Delete(id="G1")], author=f"a{number}", reason="x", made_from=seen)
            except EditRefused:
                outcomes.append("refused")
            else:
                outcomes.append("done")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "refused", "refused", "refused"]


def test_private_data_is_kept_out_and_secrets_are_taken_out_of_what_is_said(store: Store) -> None:
    with pytest.raises(EditRefused, match="e-mail address") as refused:
        edit(store, RUN, [Add(name="", text="When in doubt, ask bob@corp.org.")], author="ana", reason="x")
    assert "bob@" not in str(refused.value)
    key = "sk-" + "abcdefgh12345678" * 2
    edit(store, RUN, [Delete(id="G1")], author="ana", reason=f"it held {key}")
    assert key not in str(store.rows("edits", RUN)) + str(store.rows("pins", RUN))


def test_the_life_of_a_lesson_holds_what_people_did(store: Store) -> None:
    edit(store, RUN, [Modify(id="G1", name="", text=WORDS)], author="ana", reason="clearer")
    edit(store, RUN, [Delete(id="G1")], author="bob", reason="no use")
    edit(store, RUN, [Add(name="New", text="When unsure of a word, say so.")], author="cy", reason="missing")
    life = life_of(store, RUN, "G1")["life"]
    by_hand = [(one["what"], one["before"], one["after"]) for one in life if one["kind"] == "edit"]
    assert by_hand == [
        ("reworded by hand, by ana: clearer", START["G1"].text, WORDS),
        ("deleted by hand, by bob: no use", WORDS, None),
    ]
    new = life_of(store, RUN, f"G{BY_HAND}")
    assert new["used"] == "New: When unsure of a word, say so."
    assert new["learning"] is None
    assert [one["what"] for one in new["life"]] == ["added by hand, by cy: missing"]
    assert gone_of(store, RUN) == [], "learning still has it"


# The command.


def test_the_command_rewords_adds_merges_and_deletes(path: Path) -> None:
    at = ("--store", path, "--reason", "why not", "--author", "ana")
    assert "made by hand; before:" in said("edit", "plain", "g1", "--text", WORDS, *at)
    assert f"[G1] {WORDS}" in said("show", "plain", "--store", path)
    said("edit", "plain", "--text", "When unsure of a word, say so.", "--name", "Unsure", *at)
    assert f"[G{BY_HAND}] Unsure: When unsure of a word, say so." in said("show", "plain", "--store", path)
    said("edit", "plain", f"G{BY_HAND}", "--delete", *at)
    said("edit", "plain", "--merge", "G0,G1", "--text", "When a word is asked for, give just that.", *at)
    shown = said("show", "plain", "--store", path)
    assert "[G0] Kept: When a word is asked for, give just that." in shown
    assert "[G1]" not in shown
    told = said("why", "plain", "G1", "--store", path)
    assert "reworded by hand, by ana: why not" in told
    assert "merged with G0 by hand, by ana: why not" in told
    assert "edited by ana: why not  <- pinned" in said("history", "plain", "--store", path)


def test_the_command_says_how_to_undo_it(path: Path) -> None:
    at = ("--store", path, "--reason", "x")
    first = said("edit", "plain", "G1", "--delete", *at).splitlines()[-1]
    assert first == f"undo: tokenprior pin {RUN} --off --store {path}"
    second = said("edit", "plain", "G0", "--delete", *at).splitlines()[-1]
    said(*second.removeprefix("undo: tokenprior ").split())
    assert "[G0]" in said("show", "plain", "--store", path)
    said(*first.removeprefix("undo: tokenprior ").split())
    assert "[G1]" in said("show", "plain", "--store", path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("G1",), "expected --text with the lesson's words"),
        ((), "expected --text with the lesson's words"),
        (("--delete",), "--delete stands with one ID"),
        (("G1", "--delete", "--text", WORDS), "--delete stands with one ID"),
        (("G1", "--merge", "G0,G1", "--text", WORDS), "leave the ID out"),
        (("--merge", "G0,nothing", "--text", WORDS), "expected the id of a lesson"),
        (("--merge", "G0", "--text", WORDS), "a merge needs at least two ids"),
        (("lesson", "--text", WORDS), "expected the id of a lesson"),
        (("G9", "--delete"), "there is no G9"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in error("edit", "plain", *arguments, "--store", path, "--reason", "x")


def test_the_command_wants_a_reason(path: Path) -> None:
    assert "an edit needs a reason" in error("edit", "plain", "G1", "--delete", "--store", path)

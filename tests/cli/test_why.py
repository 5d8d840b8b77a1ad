"""why: the life of a lesson, put together from what the steps left behind."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

import world
from story import BOTH, LOUD, PLAIN, PLAINER, SMALL, error, fill, loud, said
from tokenprior.experience import Experience
from tokenprior.library import Library

START = Library(experiences=(Experience(id="G0", name="Kept", text="When asked, answer."),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("why") / "s.db"
    asyncio.run(fill(path, "story", inclusion_pairs=1))
    asyncio.run(fill(path, "loud", loud, gate="none", inclusion_pairs=2, group_size=4, epochs=3))
    asyncio.run(fill(path, "long", world.learner, gate="none", epochs=4))
    asyncio.run(fill(path, "given", loud, start=START, epochs=1))
    return path


def test_a_lesson_tells_its_life_in_order(store: Path) -> None:
    text = said("why", "story", "g0", "--store", store)
    assert text.startswith(f"[G0] Small letters: {SMALL}\nIt is used; learning goes on with other words (effect +0.")
    told = [
        "Add: all groups say so",
        f"+ Small letters: {SMALL}",
        "tried at the gate with it: the candidate ships: +0.393",
        "used with these words from here on",
        "tried at the gate with it unchanged: the candidate is refused",
        "Merge of G0, G1: one and the same",
        f"- Small letters: {SMALL}",
        f"+ Small letters: {BOTH}",
    ]
    places = [text.index(one, text.index("Life:")) for one in told]
    assert places == sorted(places)


def test_the_effect_says_what_it_rests_on(store: Path) -> None:
    text = said("why", "story", "G0", "--store", store)
    assert "effect +0." in text
    assert "over 9 tasks, from " in text
    assert "in-sample: these are practice tasks" in text
    assert "effect not measured" in said("why", "story", "G1", "--store", store), "it had other words when it was"


def test_the_groups_behind_it_stand_with_their_rewards_and_attempts_to_look_at(store: Path) -> None:
    text = said("why", "story", "G0", "--store", store)
    assert "  step 0  t1: 0.0 0.0 1.0\n" in text
    assert f"  step 0  t1: Small letters: {SMALL}\n" in text
    look = f"show story-1a2b t1#2 --step 0 --store {store}"
    assert f"tokenprior {look.replace('t1#2', chr(39) + 't1#2' + chr(39))}" in text
    assert "-- reward 1.0" in said(*look.split()), "and that command shows it"


def test_a_lesson_that_was_merged_says_into_which(store: Path) -> None:
    text = said("why", "story", "G1", "--store", store)
    assert "It is used; learning goes on without it." in text
    assert f"Modify: shorter\n          - Alone: {PLAIN}\n          + Alone: {PLAINER}\n" in text
    assert f"Merge of G0, G1, it went into G0: one and the same\n          - Alone: {PLAINER}\n" in text
    assert "tried at the gate without it" in text


def test_a_lesson_that_the_gate_refused_can_be_asked_for(store: Path) -> None:
    text = said("why", "story", "G2", "--store", store)
    assert text.startswith(f"[G2] Loud: {LOUD}\nIt is gone.\neffect not measured\nthe gate on a library with it: ")
    assert "tried at the gate with it: part 2 of 2 of its changes is refused, for it did worse: -0." in text
    assert "not taken over, learning goes on without it" in text
    assert "Modify was refused: there is no G2" in text


def test_a_lesson_that_was_measured_to_hurt_keeps_its_figure(store: Path) -> None:
    text = said("why", "loud", "G0", "--store", store)
    assert text.startswith(f"[G0] Loud: {LOUD}\nIt is gone.\neffect -0.")
    assert "Delete: measured: -0." in text
    assert "no longer used from here on" in text


def test_a_lesson_that_the_run_began_with(store: Path) -> None:
    text = said("why", "given", "G0", "--store", store)
    assert "start   the run began with it\n          + Kept: When asked, answer.\n" in text
    assert "none are known" in text
    assert "Look next" not in text


def test_long_lists_are_cut_and_say_so(store: Path) -> None:
    text = said("why", "long", "G0", "--store", store)
    found = json.loads(said("why", "long", "G0", "--json", "--store", store))
    more = re.search(r"  \.\.\. (\d+) more groups: tokenprior show long-1a2b groups --store", text)
    assert more
    assert len(found["groups"]) == 12 + int(more[1])
    assert text.count("tokenprior show long-1a2b '") == 4
    assert len(found["look"]) > 4


def test_all_of_it_as_json(store: Path) -> None:
    found = json.loads(said("why", "story", "G0", "--json", "--store", store))
    assert (found["run"], found["id"]) == ("story-1a2b", "G0")
    assert found["learning"] == f"Small letters: {BOTH}"
    assert (found["effect"]["tasks"], found["learning_effect"]["tasks"]) == (9, 8)
    assert {"step": 0, "task": "t1", "rewards": {"0": 0.0, "1": 0.0, "2": 1.0}} in found["groups"]
    assert [event["kind"] for event in found["life"][:3]] == ["done", "trial", "ships"]
    assert (found["provenance"]["step"], found["provenance"]["parents"]) == (0, []), "of the words that are used"


def test_an_unknown_lesson_is_one_line_that_names_the_known(store: Path) -> None:
    assert "no lesson 'G7'; there are: G0, G1, G3, and gone: G2" in error("why", "story", "G7", "--store", store)
    assert "no lesson 'Gx'; there are: none, and gone: G0" in error("why", "loud", "Gx", "--store", store)
    assert "no run 'none'" in error("why", "none", "G0", "--store", store)

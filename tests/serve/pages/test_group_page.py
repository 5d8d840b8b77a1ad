"""The page of a group: task, attempts, rewards, advantage, operations; and the page of one attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import story
import world
from pages_site import Served, aside, served
from tokenprior.serve.pages.words import word_diff
from tokenprior.store import open_store
from tokenprior.store.attempts import attempt_at, became_of, groups

Look = Callable[[Served, str], Page]
RUN = "/runs/story-1a2b"


def test_groups_are_listed_with_the_rewards_of_their_attempts_and_can_be_narrowed(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/groups")
    expect(page.locator("tbody tr")).to_have_count(24)
    page.get_by_role("link", name="some won, some lost").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(13)
    expect(rows.first).to_contain_text("t1 0 0 0 1")
    page.get_by_role("link", name="an attempt without a reward").click()
    expect(page.locator("main")).to_contain_text("There is none.")


def test_a_group_tells_in_the_papers_order_what_it_taught_and_what_became_of_it(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/groups?step=0")
    page.get_by_role("link", name="t1", exact=True).click()
    titles = [text.split()[0] for text in page.locator("main h2:not(.unseen)").all_inner_texts()]
    assert titles == ["Task", "Attempts", "Rewards", "Advantage", "Operations"]
    expect(page.locator("main")).to_contain_text("Repeat: birch1")
    best = page.locator("article", has_text="#2")
    expect(best).to_contain_text("reward 1 best birch1")
    worse = page.locator("article", has_text="#0")
    expect(worse.locator("del")).to_have_text("birch1")
    expect(worse.locator("ins")).to_have_text("BIRCH1")
    expect(page.locator("tbody tr").first).to_contain_text("BIRCH1 wanted birch1")
    expect(page.locator("main")).to_contain_text(
        "Small letters: When a word is to be repeated, write it in small letters."
    )
    first = page.locator(".diff li").first
    expect(first).to_contain_text("New lesson G0 used from here on")
    expect(first).to_contain_text("The learning model's reason: all groups say so")


def test_a_lesson_that_the_gate_dropped_is_dropped_in_its_groups_too(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/group?step=2&task=t6")
    expect(page.locator(".diff li", has_text="prefer capitals")).to_contain_text("dropped: the gate refused it")


def test_a_group_without_contrast_says_why_nothing_was_asked(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/group?step=1&task=t3")
    expect(page.locator("main")).to_contain_text("All rewards are alike.")
    expect(page.locator("main")).to_contain_text("was not asked about this group: its rewards are all alike")


def test_an_attempt_shows_what_the_agent_really_saw(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/group?step=1&task=t4")
    page.get_by_role("link", name="#0", exact=True).first.click()
    system = page.locator(".said.system")
    expect(system).to_contain_text("with the prior at its end")
    expect(system.locator(".prior")).to_contain_text("[G0] Small letters: When a word is to be repeated")
    expect(page.locator(".said.user")).to_contain_text("Repeat: ember4")
    assert (
        page.request.get(pages.base + RUN + "/attempt/text?step=1&task=t4&attempt=0&part=1").text() == "Repeat: ember4"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/group?step=99&task=t1", "has no attempts at task 't1' in step 99"),
        ("/group?step=x&task=t1", "expected a whole number"),
        ("/groups?show=nothing", "expected one of mixed, equal, trouble"),
        ("/groups?after=nowhere", "expected STEP/TASK"),
        ("/attempt?step=0&task=t1&attempt=77", "has no attempt t1#77"),
        ("/attempt/text?step=0&task=t1&attempt=0&part=99", "has no message '99'"),
    ],
)
def test_an_address_that_leads_nowhere_says_so_in_one_line(pages: Served, look: Look, path: str, said: str) -> None:
    page = look(pages, RUN + path)
    expect(page.get_by_role("alert")).to_contain_text(said)


def test_groups_are_turned_over_without_loss(own_store: Path) -> None:
    with open_store(own_store) as store:
        every = groups(store, "story-1a2b", limit=100)
        turned, after = [], None
        while some := groups(store, "story-1a2b", after=after, limit=7):
            turned += some
            after = (some[-1].step, some[-1].task)
    assert turned == every
    assert len(every) == 24


def test_a_contrast_of_several_groups_is_found_from_each_of_them(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    aside(story.fill(path, "joint", world.learner, groups_per_contrast=2, gate="none"))
    with open_store(path) as store:
        groups_of = [row["advantage"]["groups"] for row in store.rows("advantages", "joint-1a2b")]
        first, second = next(both for both in groups_of if len(both) == 2)
        step = next(
            row["step"]
            for row in store.rows("advantages", "joint-1a2b")
            if row["advantage"]["groups"] == [first, second]
        )
        became = [became_of(store, "joint-1a2b", step, task) for task in (first, second)]
    assert became[0].advantage == became[1].advantage
    assert became[0].advantage is not None


def test_an_attempt_is_found_without_what_it_was_made_of(own_store: Path) -> None:
    with open_store(own_store) as store:
        row = attempt_at(store, "story-1a2b", ("rollout", 0, "t1", 2, ""))
        assert attempt_at(store, "story-1a2b", ("rollout", 0, "t1", 2, row["input_hash"])) == row
    assert (row["mark"], row["rollout"]["output"]) == (1.0, "birch1")


def test_what_differs_is_told_word_by_word() -> None:
    made = word_diff("First add the two numbers, then halve.", "First add the three numbers, then halve.")
    assert made is not None
    assert [piece for piece in made if piece[0] != "same"] == [("gone", "two "), ("added", "three ")]
    assert "".join(text for what, text in made if what != "added") == "First add the two numbers, then halve."
    assert word_diff("a b c d e f g h i j k l m n o p", " ".join("qrstuvwxyz") * 3) is None
    assert word_diff("a " * 1_000_000, "a") is None


def test_a_group_on_its_way_says_that_it_is(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "s.db"
    aside(story.fill(path, "story"))
    with open_store(path) as store:
        store.writer.run_now(lambda connection: connection.exec_driver_sql("DELETE FROM steps WHERE step = 5"))
        store.writer.run_now(lambda connection: connection.exec_driver_sql("DELETE FROM advantages WHERE step = 5"))
    with served(path) as running:
        page = look(running, RUN + "/group?step=5&task=t7")
        expect(page.locator("main")).to_contain_text("Not asked yet: the step is on its way.")
        expect(page.locator("main")).to_contain_text("The library is updated when all groups of the step are done.")

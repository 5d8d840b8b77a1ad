"""What pages say of a library that a person changed: what was measured of it, and what became of its lessons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

import story
from pages_site import Served, aside, served
from tokenprior.operation import Delete, Modify
from tokenprior.serve.pages.edit import author
from tokenprior.serve.pages.report import page_of
from tokenprior.serve.pages.site import moment
from tokenprior.store.edits import edit

Look = Callable[[Served, str], Page]
RUN, BASE = "story-1a2b", "/runs/story-1a2b"


def test_a_gain_is_not_shown_as_that_of_a_library_edited_since(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        measured = site.store.library(RUN).version
        page = look(site, BASE)
        expect(page.locator("#now")).not_to_contain_text("not measured")
        made = edit(site.store, RUN, [Delete(id="G0")], author="bob", reason="x")
        said = f"Measured with {measured}. What is used now, {made.version}, was edited by hand by bob"
        for path in (BASE, f"{BASE}/comparison", "/runs/story-5e5f/comparison", "/runs/story-5e5f"):
            page = look(site, path)
            expect(page.locator("main")).to_contain_text(said)
            expect(page.locator("main")).to_contain_text("+0.388")
        expect(look(site, "/").locator(f"[id='run-{RUN}']")).to_contain_text("used now: edited by hand")
        report = page_of(site.store, site.store.find_run(RUN))
        assert said in report
        assert "It was edited by hand by bob: x" in report
        site.store.pin(RUN, None, "undone")
        expect(look(site, BASE).locator("#now")).not_to_contain_text("not measured")
        expect(look(site, "/").locator("main")).not_to_contain_text("edited by hand")


def test_a_lesson_of_two_wordings_leads_with_the_words_that_are_used(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/lessons/G0")
    expect(page.get_by_role("heading", level=2)).to_have_text(f"G0: Small letters: {story.SMALL}")
    expect(page.locator("main")).to_contain_text("Not clear yet: +0.413")
    expect(page.locator("main")).to_contain_text(f"Learning goes on with other words: Small letters: {story.BOTH}")
    expect(page.locator("main")).to_contain_text("Their effect: +0.242")


def test_a_lesson_that_only_the_gate_judged_says_what_the_gate_says(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/lessons/G2")
    expect(page.locator("main")).to_contain_text("The gate says that it hurts:")
    expect(page.locator("main")).to_contain_text("-0.732")
    expect(page.locator("main")).not_to_contain_text("tokenprior audit")


def test_a_lesson_taken_out_by_hand_says_so_first_with_the_words_that_were_used(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        edit(site.store, RUN, [Delete(id="G1")], author="bob", reason="no use")
        page = look(site, f"{BASE}/library")
        gone = page.locator("li", has_text=f"Alone: {story.PLAIN}").filter(has_text="taken out by hand by bob: no use")
        gone.get_by_role("link", name="G1").click()
        expect(page.locator("main")).to_contain_text("It was taken out by hand by bob: no use")
        expect(page.get_by_role("heading", level=2)).to_have_text(f"G1: Alone: {story.PLAIN}")


def test_what_is_taken_back_leaves_a_trace(own_store: Path, look: Look) -> None:
    words = "When one word is asked for, reply with that word alone."
    with served(own_store) as site:
        edit(site.store, RUN, [Modify(id="G1", name="", text=words)], author="ana", reason="clearer")
        site.store.pin(RUN, None, "it did no good (by bob)")
        page = look(site, f"{BASE}/lessons/G1")
        event = page.locator(".event").last
        expect(event).to_contain_text("taken back by hand: it did no good (by bob)")
        expect(event.locator("ins")).to_have_text(f"Alone: {story.PLAIN}")
        expect(page.locator("ol.story")).to_contain_text("reworded by hand, by ana: clearer")
        at = site.store.rows("pins", RUN)[-1]["pinned_at"]
        expect(event).to_contain_text(moment(at))


def test_an_edit_is_undone_by_one_button_under_the_name_of_who_did_it(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        before = site.store.library(RUN)
        edit(site.store, RUN, [Delete(id="G1")], author="ana", reason="no use")
        page = look(site, f"{BASE}/library")
        page.get_by_role("button", name="Undo this edit").click()
        expect(page.get_by_role("button", name="Undo this edit")).to_have_count(0)
        assert site.store.library(RUN) == before
        assert site.store.rows("pins", RUN)[-1]["reason"] == f"undone (by {author() or 'the pages'})"


def test_a_run_without_a_gate_does_not_speak_of_proof(own_store: Path, look: Look) -> None:
    aside(story.fill(own_store, "loud", story.loud, gate="none", inclusion_pairs=2, group_size=4, epochs=1))
    with served(own_store) as site:
        page = look(site, "/runs/loud-1a2b/library")
        expect(page.locator("main")).to_contain_text(
            "this run has no gate, and the last version that it learned has no"
        )
        expect(page.locator("main")).not_to_contain_text("proven")

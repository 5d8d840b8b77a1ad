"""Edits by hand on the pages: reworded, added, merged, deleted, and which version is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from pages_site import Served, served
from tokenprior.operation import Delete
from tokenprior.store.edits import edit

Look = Callable[[Served, str], Page]
RUN, BASE = "story-1a2b", "/runs/story-1a2b"
WORDS = "When one word is asked for, reply with that word alone."


def sign(page: Page, reason: str) -> None:
    page.get_by_label("Why").fill(reason)
    page.get_by_label("Who").fill("ana")


def test_a_lesson_is_reworded_with_who_and_why_and_that_can_be_undone(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        page = look(site, f"{BASE}/lessons/G1")
        page.get_by_label("Lesson", exact=True).fill(WORDS)
        sign(page, "clearer")
        page.get_by_role("button", name="Reword it").click()
        expect(page).to_have_url(f"{site.base}{BASE}/library")
        expect(page.locator("main")).to_contain_text("a person chose it: edited by ana: clearer")
        row = page.locator("tbody tr", has_text="G1")
        expect(row).to_contain_text(WORDS)
        expect(row).to_contain_text("by hand, ana")
        assert site.store.library(RUN)["G1"].text == WORDS
        row.get_by_role("link", name="G1").click()
        expect(page.locator("ol.story")).to_contain_text("reworded by hand, by ana: clearer")
        page.get_by_role("link", name="all versions").click()
        expect(page.locator("tbody tr").first).to_contain_text("edited by ana: clearer")
        page.get_by_label("Version", exact=True).select_option("")
        page.get_by_label("Why").fill("it did no good")
        page.get_by_role("button", name="Use it from now on").click()
        expect(page.locator("tbody tr", has_text="G1")).not_to_contain_text(WORDS)
        assert site.store.rows("pins", RUN)[-1]["version"] is None


def test_lessons_are_merged_added_and_deleted(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        page = look(site, f"{BASE}/library")
        page.get_by_role("checkbox", name="Choose G0").check()
        page.get_by_role("checkbox", name="Choose G1").check()
        page.get_by_role("button", name="Make one lesson of the chosen ones").click()
        page.get_by_label("Lesson, as one sentence").fill(WORDS)
        sign(page, "one is enough")
        page.get_by_role("button", name="Merge them").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("link", name="Add a lesson").click()
        page.get_by_label("Lesson, as one sentence").fill("When unsure about a word, say so.")
        sign(page, "it is missing")
        page.get_by_role("button", name="Add it").click()
        added = page.locator("tbody tr", has_text="When unsure about a word")
        added.get_by_role("link").click()
        expect(page.get_by_role("heading", level=2, name="G10000")).to_be_visible()
        page.get_by_role("link", name="Delete it").click()
        assert "G10000" in site.store.library(RUN), "a lesson is not deleted by one click"
        sign(page, "or not")
        page.get_by_role("button", name="Delete it").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        assert [row["operations"][0]["op"] for row in site.store.rows("edits", RUN)] == ["Merge", "Add", "Delete"]


def test_an_edit_that_does_not_fit_changes_nothing_and_says_why(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        for words, why in (
            ("Too short", "2 words: too few to say when to do what"),
            (" ".join(["word"] * 40), "40 words, at most 32 are allowed"),
            ("When in doubt, write to bob@corp.org about it.", "holds private data (e-mail address)"),
            ("When a word is to be repeated, write it in small letters.", "G0 says the same"),
        ):
            page = look(site, f"{BASE}/lessons/G1")
            page.get_by_label("Lesson", exact=True).fill(words)
            sign(page, "because")
            page.get_by_role("button", name="Reword it").click()
            expect(page.get_by_role("alert")).to_contain_text(why)
            expect(page.get_by_role("alert")).to_contain_text("nothing was changed")
            expect(page.get_by_label("Lesson, as one sentence")).to_have_value(words)
            expect(page.get_by_label("Why")).to_have_value("because")
            expect(page.get_by_label("Who")).to_have_value("ana")
        page.get_by_label("Lesson, as one sentence").fill(WORDS)
        assert site.store.rows("edits", RUN) == []
        page.get_by_role("button", name="Reword it").click()
        assert site.store.library(RUN)["G1"].text == WORDS, "from the form that came back it goes on"
        page = look(site, f"{BASE}/edit?op=Delete&id=G1")
        page.get_by_role("button", name="Delete it").click()
        assert "op=Delete" in page.url, "without a reason the form is not sent"
        assert len(site.store.rows("edits", RUN)) == 1


def test_a_merge_of_too_few_lessons_asks_which(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        for chosen in ((), ("G1",)):
            page = look(site, f"{BASE}/library")
            for one in chosen:
                page.get_by_role("checkbox", name=f"Choose {one}").check()
            page.get_by_role("button", name="Make one lesson of the chosen ones").click()
            expect(page.locator("main")).to_contain_text("Choose two or more")
            expect(page.get_by_role("checkbox", checked=True)).to_have_count(len(chosen))
        page.get_by_role("checkbox", name="G0").check()
        page.get_by_role("button", name="Make one of them").click()
        expect(page.get_by_role("button", name="Merge them")).to_be_visible()


def test_of_two_people_who_edit_at_once_the_second_is_told(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        page, other = look(site, f"{BASE}/lessons/G1"), look(site, f"{BASE}/lessons/G0")
        edit(site.store, RUN, [Delete(id="G0")], author="bob", reason="was faster")
        for late in (page, other):
            sign(late, "too late")
            late.get_by_role("button", name="Reword it").click()
            expect(late.get_by_role("alert")).to_contain_text("the library has changed since")
        assert site.store.library(RUN)["G1"].text != WORDS
        page.get_by_label("Lesson, as one sentence").fill(WORDS)
        page.get_by_role("button", name="Reword it").click()
        assert site.store.library(RUN)["G1"].text == WORDS, "having looked again, it is made from what is used now"
        expect(other.locator("main")).to_contain_text("G0 is not in what is used")


def test_what_a_person_writes_is_text_and_nothing_else(own_store: Path, look: Look) -> None:
    hostile = "When <img src=x onerror=alert(1)> comes, say </textarea><script>alert(2)</script> and \u202e no more."
    with served(own_store) as site:
        page = look(site, f"{BASE}/lessons/G1")
        page.on("dialog", lambda dialog: (_ for _ in ()).throw(AssertionError("a script ran")))
        page.get_by_label("Lesson", exact=True).fill(hostile)
        sign(page, "<b>bold</b>")
        page.get_by_role("button", name="Reword it").click()
        expect(page.locator("tbody tr", has_text="G1")).to_contain_text("<img src=x onerror=alert(1)>")
        expect(page.locator("main")).to_contain_text("<b>bold</b>")
        page.get_by_role("link", name="G1").click()
        assert page.locator("main img, main script, main b").count() == 0
        assert "</textarea><script>" in page.get_by_label("Lesson", exact=True).input_value()


def test_everything_can_be_done_with_the_keyboard(own_store: Path, look: Look) -> None:
    with served(own_store) as site:
        page = look(site, f"{BASE}/lessons/G1")
        page.get_by_label("Name").focus()
        for text in (None, WORDS, "by keys", "ana"):
            if text:
                page.keyboard.press("Tab")
                page.keyboard.press("Control+A")
                page.keyboard.type(text)
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        expect(focused).to_have_text("Reword it")
        assert focused.evaluate("one => getComputedStyle(one).outlineStyle") != "none"
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{site.base}{BASE}/library")
        assert site.store.library(RUN)["G1"].text == WORDS

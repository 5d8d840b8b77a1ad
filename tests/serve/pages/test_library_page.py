"""The library: lessons with their effects, those that are gone, versions, what differs, export, the life of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

import story
from pages_site import Served, aside, served
from tokenprior.exports import FORMATS, export

Look = Callable[[Served, str], Page]
BASE = "/runs/story-1a2b"


def test_lessons_stand_with_effect_interval_tokens_age_and_scope(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library")
    row = page.locator("tbody tr", has_text="G0")
    expect(row).to_contain_text("Small letters: When a word is to be repeated, write it in small letters.")
    expect(row).to_contain_text("9 tasks")
    expect(row.locator("svg.plot")).to_have_attribute("aria-label", "G0 +0.413 [-0.001, +0.827]")
    cells = row.locator("td").all_inner_texts()
    assert cells[-3:] == ["3 tasks", "18", "5"]
    expect(page.locator("tbody tr", has_text="G1")).to_contain_text("not measured")
    expect(page.locator("main")).to_contain_text("Learning goes on from another version")


def test_lessons_are_sorted_by_what_a_head_says(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library")
    page.get_by_role("link", name="Tokens").click()
    expect(page.get_by_role("columnheader", name="Tokens")).to_have_attribute("aria-sort", "descending")
    tokens = [int(text) for text in page.locator("tbody tr td:nth-last-child(2)").all_inner_texts()]
    assert tokens == sorted(tokens, reverse=True)
    page.get_by_role("link", name="Effect").click()
    expect(page.locator("tbody tr").first).to_contain_text("G0")


def test_lessons_that_are_gone_are_there_with_why(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library")
    gone = page.locator("li", has_text="prefer capitals")
    expect(gone).to_contain_text("step 2: dropped at the gate: the candidate is refused")
    gone.get_by_role("link", name="G2").click()
    expect(page.locator("main")).to_contain_text("gone")


def test_what_learning_goes_on_with_and_is_not_used_stands_apart(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library")
    expect(page.get_by_role("heading", name="Not used yet")).to_be_visible()
    expect(page.locator("li", has_text=story.BOTH)).to_contain_text("G0")
    expect(page.locator("li", has_text="(the words of G0, which is used)")).to_contain_text("G3")


def test_a_lesson_measured_to_hurt_says_so(own_store: Path, look: Look) -> None:
    aside(story.fill(own_store, "loud", story.loud, gate="none", inclusion_pairs=2, group_size=4, epochs=3))
    with served(own_store) as site:
        page = look(site, "/runs/loud-1a2b/library")
        expect(page.locator("li", has_text="prefer capitals")).to_contain_text("step 2: deleted: measured: -0.688")
        page.get_by_role("link", name="G0").click()
        expect(page.locator("main")).to_contain_text("It hurts: -0.688")
        expect(page.locator("figure svg")).to_have_attribute("role", "img")


def test_a_lesson_leads_to_its_attempts_and_to_the_whole_step(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/lessons/g1")
    life = page.locator("ol.story")
    for words in ("new one group says so", "reworded shorter", "Merge of G0, G1, it went into G0"):
        expect(life).to_contain_text(words)
    expect(life.locator("ins").first).to_have_text(f"Alone: {story.PLAIN}")
    links = page.locator("tbody a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert f"{BASE}/group?step=0&task=t1" in links
    life.get_by_role("link", name="the whole step").first.click()
    expect(page.locator("#step-0")).to_be_visible()


def test_any_two_versions_are_held_side_by_side(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/versions")
    expect(page.locator("tbody tr")).to_have_count(8)
    expect(page.locator("tbody tr", has_text="ships").filter(has_text="used")).to_have_count(1)
    expect(page.get_by_role("radio", name="from e0cdac1ce13c")).to_be_checked()
    expect(page.get_by_role("radio", name="to b3babda1fcdb").first).to_be_checked()
    page.get_by_role("button", name="Show what differs").click()
    reworded = page.locator(".diff li", has_text="G0")
    expect(reworded.locator("ins").first).to_have_text("one")
    expect(page.locator(".diff li", has_text="G1")).to_contain_text("gone")
    expect(page.locator(".diff li", has_text="G3")).to_contain_text("new")
    page.select_option("#after", "e0cdac1ce13c")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("main")).to_contain_text("The same lessons in the same words.")


def test_an_older_version_can_be_looked_at_and_says_that_it_is_not_used(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library?at=0a0a7c6d")
    expect(page.locator("main")).to_contain_text("This is not what is used.")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_role("checkbox")).to_have_count(0)


def test_every_form_can_be_saved(pages: Served, look: Look) -> None:
    page = look(pages, f"{BASE}/library")
    for form in FORMATS:
        page.select_option("#form", form)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save").click()
        saved = Path(download.value.path()).read_text(encoding="utf-8")
        assert saved == export(pages.store.library("story-1a2b"), form)
        name = {"skill": "SKILL.md", "cursor": "story-e0cdac1ce13c.mdc"}.get(form, "story-e0cdac1ce13c.")
        assert download.value.suggested_filename.startswith(name)
    expect(page.locator("#form option", has_text="a rule of Cursor")).to_have_count(1)

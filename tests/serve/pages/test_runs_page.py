"""The list of runs: every one with its state and its gain; those on their way move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from pages_site import Served, served
from tokenprior.progress import Progress
from tokenprior.store import open_store

Look = Callable[[Served, str], Page]


def test_every_run_is_listed_with_its_gain(pages: Served, look: Look) -> None:
    page = look(pages, "/")
    expect(page.locator("#lines tr")).to_have_count(2)
    learned = page.locator("#lines tr", has_text="learn")
    expect(learned).to_contain_text("done")
    expect(learned).to_contain_text("+0.388 [+0.283, +0.492]")
    expect(page.locator("#lines tr", has_text="compare")).to_contain_text("Comparison of story")
    expect(learned.get_by_role("link", name="its comparison")).to_be_visible()
    learned.get_by_role("link", name="story").click()
    expect(page).to_have_url(f"{pages.base}/runs/story-1a2b")


def test_on_a_phone_the_gain_is_seen_without_scrolling_sideways(pages: Served, look: Look) -> None:
    page = look(pages, "/")
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("/", "/start", "/runs/story-1a2b/library"):
        page.goto(pages.base + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page.goto(pages.base)
    box = page.locator("#lines tr", has_text="learn").get_by_text("+0.388").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 390


def test_a_run_on_its_way_moves_and_a_new_one_appears(own_store: Path, look: Look) -> None:
    with served(own_store) as site, open_store(own_store) as other:
        config = {"tasks": {"path": "data/tasks.jsonl"}, "agent": {"model": "large"}, "learner": "larger"}
        record = other.open_run("live-1", name="live", kind="learn", config=config)
        page = look(site, "/")
        row = page.locator("[id='run-live-1']")
        expect(row).to_contain_text("running")
        expect(row).to_contain_text("data/tasks.jsonl")
        expect(row).to_contain_text("large, lessons by larger")
        page.evaluate("window.same = true")
        record.note(Progress(phase="rollouts", step=2, steps=6, done=7, total=60))
        expect(row).to_contain_text("step 2 of 6, rollouts: 7 of 60 attempts")
        record.close("stopped", "budget reached")
        expect(row).to_contain_text("stopped")
        expect(row).to_contain_text("budget reached")
        other.open_run("fresh-1", name="fresh", kind="learn", config={}).close("done")
        expect(page.locator("#lines tr").first).to_contain_text("fresh")
        expect(page.locator("#lines tr")).to_have_count(4)
        assert page.evaluate("window.same"), "the page was not loaded again"


def test_a_long_list_goes_on_where_the_page_before_ended(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "s.db"
    with open_store(path) as store:
        for number in range(60):
            store.open_run(f"many-{number:02}", name="many", kind="learn", config={}).close("done")
    with served(path) as site:
        page = look(site, "/")
        first = page.locator("#lines th a").evaluate_all("links => links.map(link => link.href)")
        page.get_by_role("link", name="Next page").click()
        expect(page.locator("#lines tr")).to_have_count(10)
        rest = page.locator("#lines th a").evaluate_all("links => links.map(link => link.href)")
        assert len({*first, *rest}) == 60


def test_an_empty_store_says_how_to_begin(tmp_path: Path, look: Look) -> None:
    open_store(tmp_path / "s.db").close()
    with served(tmp_path / "s.db") as site:
        expect(look(site, "/").locator("main")).to_contain_text("There is no run in this store")


def test_dark_and_light_are_chosen_by_the_system_and_by_the_button(pages: Served, look: Look) -> None:
    page = look(pages, "/")

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert dark != light
    page.get_by_role("button", name="Dark / light").click()
    assert ground() == light
    page.reload()
    assert ground() == light, "the choice is kept"


def test_the_content_is_one_key_away(pages: Served, look: Look) -> None:
    page = look(pages, "/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()

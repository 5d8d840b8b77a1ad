"""What pages say of a library that a person changed: what was measured of it, and what became of its lessons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from pages_site import Served, served
from tokenprior.operation import Delete
from tokenprior.serve.pages.report import page_of
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
        report = page_of(site.store, site.store.find_run(RUN))
        assert said in report
        assert "It was edited by hand by bob: x" in report
        site.store.pin(RUN, None, "undone")
        expect(look(site, BASE).locator("#now")).not_to_contain_text("not measured")

"""The list of runs."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page

from pages_site import Served


def test_every_run_is_listed_with_its_gain(pages: Served, look: Callable[[Served, str], Page]) -> None:
    page = look(pages, "/")
    assert page.locator("#lines tr").count() == 2

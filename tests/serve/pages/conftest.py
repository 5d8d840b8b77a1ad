"""A store filled by runs on scripted models, its pages, and one Chromium for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

import endpoint_run
import story
from fake_openai import FakeOpenAI
from pages_site import Served, aside, compared, served

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def story_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a past, compared on held-out tasks. Never written to: copy it for a test that does."""
    path = tmp_path_factory.mktemp("pages") / "s.db"
    made = aside(story.fill(path, "story", inclusion_pairs=1))
    aside(compared(path, "story", made.library))
    return path


@pytest.fixture
def own_store(story_store: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copy(story_store, tmp_path / "s.db"))


@pytest.fixture(scope="session")
def pages(story_store: Path) -> Iterator[Served]:
    with served(story_store) as running:
        yield running


@pytest.fixture(scope="session")
def endpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with tasks, a config and a store, and the id of the run that filled it on an endpoint that falters."""
    path = tmp_path_factory.mktemp("endpoint")
    with FakeOpenAI(faults=["500"], share=0.1) as server:
        return path, aside(endpoint_run.fill(endpoint_run.folder(path, server)))


@pytest.fixture(scope="session")
def endpoint_pages(endpoint_folder: tuple[Path, str]) -> Iterator[Served]:
    with served(endpoint_folder[0] / "tokenprior.db") as running:
        yield running


# For a module and no longer: while it is open, its loop runs in this thread, where async tests want theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium to look at pages with")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(10_000)
    yield opened
    opened.close()


@pytest.fixture
def look(context: BrowserContext) -> Callable[[Served, str], Page]:
    """Opens a page of a site, signed in. What a script of ours did wrong fails the test."""

    def opened(site: Served, path: str) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(f"{path}: {error}"))
        page.goto(site.entry)
        page.goto(site.base + path)
        return page

    return opened

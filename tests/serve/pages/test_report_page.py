"""A run or a comparison as one file to send: all of it, nothing private, and nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page
from typer.testing import CliRunner

from html_reader import Reader
from pages_site import Served
from tokenprior.cli import app
from tokenprior.errors import NotFound
from tokenprior.exports.page import cleaned
from tokenprior.serve.pages.report import page_of
from tokenprior.store import open_store, schema

Look = Callable[[Served, str], Page]


def test_a_run_tells_its_story_its_library_its_curves_and_what_it_is_worth(story_store: Path) -> None:
    with open_store(story_store) as store:
        page = Reader(page_of(store, store.find_run("story-1a2b")))
    for words in (
        "learned helps: +0.388 [+0.283, +0.492] against no prior",
        "Small letters: When a word is to be repeated, write it in small letters.",
        "Waiting for more evidence",
        "dropped: the gate refused it",
        "the candidate is refused, for it did worse: -0.732",
        "Used from here on: e0cdac1ce13c",
    ):
        assert words in page.text
    assert "the run began 20" in page.text, "which is not when the report was made"
    labels = [str(attributes["aria-label"]) for tag, attributes in page.tags if tag == "svg"]
    assert any(label.startswith("Practice: 6 points, the last: 5 ") for label in labels)
    assert any(label.startswith("Gate: 6 points") for label in labels)
    assert any(label.startswith("Gain over no prior: learned +0.388") for label in labels)


def test_a_report_needs_nothing_but_itself(story_store: Path) -> None:
    with open_store(story_store) as store:
        for run in store.runs():
            text = page_of(store, run)
            page = Reader(text)
            assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
            assert not any({"src", "href", "style"} & attributes.keys() for _, attributes in page.tags)
            assert not re.search(r"https?:|url\(|@import|\bon\w+=", text)


def test_keys_never_get_into_a_report_and_private_data_only_where_that_is_asked_for(own_store: Path) -> None:
    words = "write to jane.doe@corp-mail.net and give the key sk-proj4abcdefgh12345678"
    change = schema.runs.update().values(detail=words)  # a store that an older version wrote
    with open_store(own_store) as store:
        store.writer.run_now(lambda connection: connection.execute(change))
        run = store.find_run("story-1a2b")
        masked, kept = page_of(store, run), page_of(store, run, mask=False)
    assert "sk-proj4abcdefgh12345678" not in masked + kept
    assert "jane.doe@" not in masked
    assert "[e-mail address]" in masked
    assert "jane.doe@corp-mail.net" in kept


def test_what_is_masked_alike_is_not_lost() -> None:
    made = cleaned(
        {"tasks": {"a@b": [1], "c@d": [2]}, "n": 3, "list": ["a@b", None]},
        lambda _: "x",
    )
    assert made == {"x": {"x": [1], "x*": [2]}, "x*": 3, "x**": ["x", None]}


def test_the_page_offers_the_file_and_the_command_writes_it(
    pages: Served, look: Look, story_store: Path, tmp_path: Path
) -> None:
    page = look(pages, "/runs/story-1a2b/comparison")
    with page.expect_download() as download:
        page.get_by_role("link", name="One file to send: HTML").click()
    assert download.value.suggested_filename == "story-5e5f.html"
    file = tmp_path / "r.html"
    ended = CliRunner().invoke(app, ["report", "story-5e5f", "--to", str(file), "--store", str(story_store)])
    assert ended.exit_code == 0, ended.output
    assert "learned helps: +0.388" in file.read_text()


def test_what_has_no_report_says_so(own_store: Path) -> None:
    with open_store(own_store) as store:
        store.open_run("audit-1", name="audit", kind="audit", config={}).close("done")
        with pytest.raises(NotFound, match="neither a learning run nor a finished comparison"):
            page_of(store, store.find_run("audit-1"))

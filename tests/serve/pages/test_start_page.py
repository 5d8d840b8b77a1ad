"""The form that starts a run, and a run stopped and gone on with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import endpoint_run
import world
from fake_openai import FakeOpenAI
from pages_site import Served, aside, served
from tokenprior.config import load_config
from tokenprior.errors import ConfigError
from tokenprior.serve.pages.control import begin, within
from tokenprior.serve.pages.security import Keys
from tokenprior.serve.pages.site import Site
from tokenprior.serve.pages.start import TAKES, shaped
from tokenprior.store import open_store
from tokenprior.verifiers.take import Take

Look = Callable[[Served, str], Page]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data and an empty store."""
    rows = [{"question": task.question, "answer": task.answer} for task in world.tasks(60)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "few.csv").write_text("question,answer\none,1\ntwo,2\nthree,\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.csv").write_text("question\nno\n")
    open_store(tmp_path / "tokenprior.db").close()
    return tmp_path


@pytest.fixture
def site(folder: Path) -> Iterator[Served]:
    with served(folder / "tokenprior.db") as running:
        yield running


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does; the limit is there for one that never does it."""
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def test_a_form_is_filled_from_the_data_and_what_it_writes_is_what_init_writes(site: Served, look: Look) -> None:
    page = look(site, "/start")
    assert page.locator("main ul a").all_inner_texts() == ["tasks.jsonl", "below/few.csv"]
    page.get_by_role("link", name="tasks.jsonl").click()
    expect(page.get_by_label("To practise on")).to_have_value("20")
    page.get_by_label("Instructions").fill('Say it: "small".\nNo more.')
    page.get_by_role("button", name="Check it").click()
    found = page.locator("#found")
    expect(found).to_contain_text("20 tasks to practise on, 20 for the gate, 20 held out.")
    expect(found).to_contain_text("The verifier tells right from wrong on the 3 tasks that were tried.")
    expect(found.locator("tbody tr")).to_have_count(6)
    expect(found).to_contain_text("At most: 160 attempts, 520 more at the gate, 88 learning calls")
    found.locator("summary").click()
    expect(found.locator("details pre")).to_contain_text('instructions: "Say it: \\"small\\".\\nNo more."')
    assert not list(Path(site.store.path or "").parent.glob("*.yaml")), "nothing is written before the start"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("practice", "many", "got 'many', expected a whole number"),
        ("practice", "61", "but there are 60: ask for fewer"),
        ("usd", "-1", "greater than 0"),
        ("group_size", "0", "greater than or equal to 1"),
        ("take", "somewhere", "expected one of all, first_line"),
        ("question", "colour", "colour"),
        ("data", "../tasks.jsonl", "is not in the folder that the pages were started in"),
        ("data", "nothing.jsonl", "no such file in this folder"),
        ("to", "../x.yaml", "is not in the folder that the pages were started in"),
        ("to", "x.py", "expected a name that ends in .yaml"),
        ("model", "", "which model makes the attempts?"),
    ],
)
def test_a_mistake_is_told_beside_its_field(site: Served, look: Look, field: str, value: str, said: str) -> None:
    page = look(site, "/start?data=tasks.jsonl")
    page.locator(f"#{field}").fill(value)
    page.get_by_role("button", name="Write the config and start").click()
    expect(page.locator(f"#{field}-error")).to_contain_text(said)
    expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(f"#{field}")).to_have_value(value)
    expect(page.get_by_role("alert").first).to_contain_text(said)
    assert not list(Path(site.store.path or "").parent.glob("*.yaml"))


def test_a_verifier_that_does_not_fit_the_data_is_told_before_anything_is_spent(site: Served, look: Look) -> None:
    page = look(site, "/start?data=tasks.jsonl")
    page.get_by_label("Verifier").select_option("number")
    page.locator("#take").fill("last_number")
    page.get_by_role("button", name="Check it").click()
    expect(page.locator("#found .note.bad")).to_contain_text("3 of 3 reference answers got no more than a wrong one")


def test_data_that_cannot_be_read_is_told_where_it_is_chosen(site: Served, look: Look) -> None:
    page = look(site, "/start?data=../../etc/passwd")
    expect(page.get_by_role("alert")).to_contain_text("is not in the folder that the pages were started in")


def test_a_run_is_started_stopped_and_gone_on_with_from_the_pages(folder: Path, site: Served, look: Look) -> None:
    with FakeOpenAI(delay_s=0.3) as server:
        page = look(site, "/start?data=tasks.jsonl")
        for field, value in {"model": server.model, "instructions": "Do what is asked.", "practice": "12"}.items():
            page.locator(f"#{field}").fill(value)
        page.get_by_role("button", name="Write the config and start").click()
        page.wait_for_url("**/runs/tokenprior-*", timeout=60_000)
        (run,) = [run.id for run in site.store.runs()]
        assert page.url.endswith(f"{run}#main")
        config = load_config(folder / "tokenprior.yaml")
        assert (config.agent.model, config.learn.gate) == (server.model, "proven")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Go on")).to_be_visible(timeout=60_000)
        assert site.store.find_run(run).state == "stopped"
        assert site.store.holder(run) is None
        server.delay_s = 0.0
        page.get_by_role("button", name="Go on").click()
        until(lambda: site.store.find_run(run).state == "done", "the run is done")
        until(lambda: site.store.holder(run) is None, "its process lets go of it")
    assert [one.id for one in site.store.runs()] == [run]
    assert "step 0: mean reward" in (folder / "tokenprior.learn.log").read_text()


def test_a_run_that_fails_at_once_says_why_on_its_page(folder: Path, site: Served, look: Look) -> None:
    page = look(site, "/start?data=tasks.jsonl")
    page.locator("#model").fill("nobody:nothing")
    page.get_by_role("button", name="Write the config and start").click()
    expect(page.locator("#now")).to_contain_text("nobody", timeout=60_000)
    expect(page.locator("#now .tag")).to_have_text("failed")


def test_a_command_that_ends_before_there_is_a_run_gives_its_last_words(tmp_path: Path) -> None:
    with FakeOpenAI() as server, open_store(tmp_path / "tokenprior.db") as store:
        config = load_config(endpoint_run.folder(tmp_path, server))
        (tmp_path / "tasks.jsonl").write_text("no tasks\n")
        site = Site(store=store, keys=Keys.drawn(), folder=tmp_path)
        with pytest.raises(ConfigError, match=r"run\.yaml: .*tasks\.jsonl:1: not JSON"):
            begin(site, config)


def test_a_config_of_another_store_is_not_begun(tmp_path: Path) -> None:
    with FakeOpenAI() as server, open_store(tmp_path / "other.db") as store:
        config = load_config(endpoint_run.folder(tmp_path, server))
        with pytest.raises(ConfigError, match="keeps its runs in another store"):
            begin(Site(store=store, keys=Keys.drawn(), folder=tmp_path), config)


def test_a_run_of_a_config_elsewhere_is_not_run_from_here(tmp_path: Path, look: Look) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    with FakeOpenAI() as server:
        config = endpoint_run.folder(elsewhere, server)
    with open_store(here / "tokenprior.db") as store:
        source = {"file": str(config), "changes": {}}
        store.open_run("run-1", name="run", kind="learn", config={"source": source}).close("stopped")
        store.open_run("run-2", name="run", kind="learn", config={}).close("stopped")
    with served(here / "tokenprior.db") as running:
        for run, said in (("run-1", "is not in the folder that the pages were started in"), ("run-2", "config file")):
            page = look(running, f"/runs/{run}")
            expect(page.get_by_role("button", name="Go on")).to_have_count(0)
            expect(page.locator("main")).to_contain_text(said)


def test_paths_are_kept_within_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "link").symlink_to(tmp_path)
    assert within(inside, "a/../b.yaml") == inside / "b.yaml"
    for path in ("../secret", "link/secret", "/etc/passwd", str(tmp_path / "secret")):
        with pytest.raises(ConfigError, match="is not in the folder"):
            within(inside, path)


@pytest.mark.parametrize("take", TAKES)
def test_an_answer_is_tried_in_the_form_in_which_it_is_read(take: str) -> None:
    assert aside(Take.parse(take).read(shaped("42", take))) == "42"

"""The ledger of calls: filtered, searched within bounds, and each call as it really was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pages_site import Served
from tokenprior.store import calls as store_calls
from tokenprior.store import open_store
from tokenprior.store.calls import Wanted, call_of, calls, summed

Look = Callable[[Served, str], Page]


@pytest.fixture
def ledger(endpoint_folder: tuple[Path, str]) -> str:
    return f"/runs/{endpoint_folder[1]}/calls"


def test_calls_are_narrowed_by_what_they_were_for(endpoint_pages: Served, look: Look, ledger: str) -> None:
    page = look(endpoint_pages, ledger)
    expect(page.locator("#calls tbody tr").last).to_be_visible()
    page.get_by_label("For", exact=True).select_option("comparing attempts")
    page.get_by_label("State", exact=True).select_option("done")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("#calls tbody tr")
    purposes = rows.locator("td:nth-of-type(1)").all_inner_texts()
    assert {purpose.partition(" try ")[0] for purpose in purposes} == {"comparing attempts"}
    expect(rows.first.locator("td").nth(1)).to_have_text(re.compile("[0-9]+"))
    page.get_by_role("link", name="all calls").click()
    assert page.url.endswith("/calls")


def test_a_retried_call_shows_both_of_its_tries(endpoint_pages: Served, look: Look, ledger: str) -> None:
    page = look(endpoint_pages, f"{ledger}?state=failed")
    expect(page.locator("#calls tbody tr").first).to_contain_text("http-500")
    page.locator("#calls tbody tr a").first.click()
    expect(page.locator(".note.bad")).to_contain_text("http-500")
    expect(page.locator("main")).to_contain_text("There is none.")
    page.locator("p", has_text="Tries of this call").get_by_role("link").click()
    expect(page.locator("main")).to_contain_text("done")


def test_a_call_shows_prompt_and_reply_with_the_prior_told_apart(
    endpoint_pages: Served, look: Look, ledger: str
) -> None:
    page = look(endpoint_pages, f"{ledger}?phase=gate&text=lessons+from+EXPERIENCE")
    expect(page.get_by_role("status")).to_contain_text("Looked through the newest")
    page.locator("#calls tbody tr a").first.click()
    expect(page.locator(".prior")).to_contain_text("[G0] Small letters: When a word is to be repeated")
    expect(page.locator("main")).to_contain_text("temperature: 0.3, max_tokens: 50")
    text = page.request.get(page.url + "/text?part=request")
    assert text.headers["content-type"].startswith("text/plain")
    assert '"temperature": 0.3' in text.text()
    assert page.request.get(page.url + "/text?part=1").text().startswith("Repeat: ")


def test_a_search_reads_so_many_calls_and_then_says_where_it_goes_on(endpoint_folder: tuple[Path, str]) -> None:
    path, run = endpoint_folder
    with open_store(path / "tokenprior.db") as store:
        every = [row["id"] for row in calls(store, run, Wanted(), limit=10_000).rows]
        wanted, found, before = Wanted(text="small letters"), [], None
        while True:
            some = calls(store, run, wanted, before=before, limit=4)
            assert len(some.rows) <= 4
            found += [row["id"] for row in some.rows]
            if (before := some.older) is None:
                break
        assert found == [row["id"] for row in calls(store, run, wanted, limit=10_000).rows]
        assert 0 < len(found) < len(every) <= store_calls.MOST_SEARCHED
        assert calls(store, run, Wanted(text="%"), limit=5).rows == ()
        assert calls(store, run, Wanted(text="\u202e\ud800"), limit=5).rows == ()
        task = call_of(store, run, found[-1])["key"].split("/")[2]
        assert {row["key"].split("/")[2] for row in calls(store, run, Wanted(task=task), limit=99).rows} == {task}


def test_sums_are_of_all_calls(endpoint_folder: tuple[Path, str]) -> None:
    path, run = endpoint_folder
    with open_store(path / "tokenprior.db") as store:
        rows = summed(store, run)
        every = calls(store, run, Wanted(), limit=10_000).rows
    assert sum(row["calls"] for row in rows) == len(every)
    assert sum(row["input_tokens"] for row in rows) == sum(row["input_tokens"] for row in every)
    assert {row["phase"] for row in rows} == {"rollout", "contrast", "revise", "gate"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("?phase=lunch", "phase=lunch: expected one of rollout"),
        ("?state=well", "expected one of done, failed, sent, unknown"),
        (f"?text={'x' * 300}", "expected at most 200 characters"),
        ("/999999999", "has no call 999999999"),
        ("/x", "has no call 'x'"),
        ("/1/text?part=99", "this call has no message '99'"),
    ],
)
def test_an_address_that_leads_nowhere_says_so_in_one_line(
    endpoint_pages: Served, look: Look, ledger: str, path: str, said: str
) -> None:
    expect(look(endpoint_pages, ledger + path).get_by_role("alert")).to_contain_text(said)

"""The page of a comparison: the verdict, the tasks in any order, and what was said at each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pages_site import Served, served
from tokenprior.store import open_store
from tokenprior.store.attempts import attempts_of
from tokenprior.store.compared import attempts_by_arm, comparison_of, comparisons_of, more_evidence

Look = Callable[[Served, str], Page]
RUN = "/runs/story-1a2b"


def test_a_learning_run_shows_the_newest_comparison_of_its_name(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/comparison")
    expect(page.locator("main")).to_contain_text("The newest comparison of this name: story-5e5f.")
    expect(page.locator(".card.helps")).to_contain_text("learned helps: +0.388 [+0.283, +0.492] against no prior")
    expect(page.locator("svg")).to_have_count(2)
    expect(page.locator("main")).to_contain_text("Best constant answer: pearl79 to every task would score 0.025.")


def test_tasks_are_sorted_and_narrowed_without_losing_the_place(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/comparison")
    rows = page.locator("table").last.locator("tbody tr")
    expect(rows).to_have_count(40)
    expect(rows.first).to_contain_text("+1.000")
    expect(rows.first).to_contain_text("Repeat: ")
    page.get_by_role("link", name="largest loss first").click()
    expect(rows.first).to_contain_text("+0.000")
    assert page.url.endswith("#tasks")
    page.get_by_role("link", name="27 better").click()
    expect(rows).to_have_count(27)
    expect(rows.first).to_contain_text("+0.500")
    expect(page.get_by_role("link", name="largest loss first")).to_have_attribute("aria-current", "true")


def test_behind_each_task_stand_the_attempts_of_each_arm(pages: Served, look: Look) -> None:
    page = look(pages, RUN + "/comparison?sort=task")
    page.get_by_role("link", name="t45", exact=True).click()
    arms = page.locator(".attempts")
    expect(arms).to_have_count(2)
    none, learned = arms.all()
    expect(none.locator("article").first).to_contain_text("reward 0")
    expect(none.locator("article").first).to_contain_text("saw no lesson")
    expect(learned.locator("article").first).to_contain_text("reward 1 north45")
    expect(learned.locator("article").first).to_contain_text("saw G0, G1")
    learned.get_by_role("link", name="the whole conversation").first.click()
    expect(page.locator(".prior")).to_contain_text("[G0] Small letters")


def test_a_comparison_of_several_arms_holds_any_of_them_against_the_first(endpoint_pages: Served, look: Look) -> None:
    run = next(run.id for run in endpoint_pages.store.runs() if run.kind == "compare")
    page = look(endpoint_pages, f"/runs/{run}/comparison")
    expect(page.locator(".card.toned")).to_have_count(2)
    page.get_by_role("link", name="placebo", exact=True).click()
    expect(page.get_by_role("columnheader", name="Gain of placebo")).to_be_visible()


def test_what_is_not_settled_says_what_more_evidence_would_cost(endpoint_folder: tuple[Path, str]) -> None:
    with open_store(endpoint_folder[0] / "tokenprior.db") as store:
        run = next(run.id for run in store.runs() if run.kind == "compare")
        found = comparison_of(store, run)
    assert found is not None
    learned, placebo = found["differences"]
    assert more_evidence(found, learned) == [], "it is settled"
    unclear = placebo | {"outcome": "unclear", "tasks_needed": 120, "attempts_needed": 5}
    for arm in found["arms"]:
        arm |= {"scored": 40, "unscored": 0, "failed": {}, "input_tokens": 4_000, "output_tokens": 400, "cost_usd": 0.4}
        arm["latency_s"] = 0.5
    tasks, attempts = more_evidence(found, unclear)
    assert (tasks.what, tasks.attempts) == ("100 more tasks, with as many attempts at each", 400)
    assert (tasks.tokens, round(tasks.usd or 0, 6), tasks.seconds) == (44_000, 4.0, 200.0)
    assert (attempts.what, attempts.attempts) == ("3 more attempts at each of these 20 tasks", 120)


def test_what_the_store_gives_back_is_what_the_comparison_said(endpoint_folder: tuple[Path, str]) -> None:
    with open_store(endpoint_folder[0] / "tokenprior.db") as store:
        run = next(run for run in store.runs() if run.kind == "compare")
        found = comparison_of(store, run.id)
        listed = comparisons_of(store, run.name, limit=5)
        assert found is not None
        rows = attempts_of(store, run.id, "evaluate", 0, next(iter(found["arms"][0]["tasks"])))
        by_arm = attempts_by_arm(found, rows, rows[0]["task"])
        assert comparison_of(store, endpoint_folder[1]) is None
    assert [arm["arm"] for arm in found["arms"]] == ["no prior", "learned", "placebo"]
    assert listed[0]["verdicts"] == [one["verdict"] for one in found["differences"]]
    saw = {arm: {tuple(row["rollout"]["included"]) for row in some} for arm, some in by_arm.items()}
    assert saw == {"no prior": {()}, "learned": {("G0",)}, "placebo": {("G0",)}}
    assert "small letters" in by_arm["learned"][0]["rollout"]["messages"][0][1]
    assert "small letters" not in by_arm["placebo"][0]["rollout"]["messages"][0][1]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/comparison?sort=colour", "expected one of gain, loss, task"),
        ("/comparison?show=colour", "expected one of better, worse, equal, unscored"),
        ("/comparison?arm=nobody", "there is no such arm; there are no prior, learned"),
        ("/comparison/task?task=nowhere", "has no attempts at task 'nowhere'"),
    ],
)
def test_an_address_that_leads_nowhere_says_so_in_one_line(pages: Served, look: Look, path: str, said: str) -> None:
    expect(look(pages, RUN + path).get_by_role("alert")).to_contain_text(said)


def test_what_was_never_compared_says_how(own_store: Path, look: Look) -> None:
    with open_store(own_store) as store:
        store.writer.run_now(lambda connection: connection.exec_driver_sql("DELETE FROM comparisons"))
    with served(own_store) as running:
        expect(look(running, RUN + "/comparison").locator("pre")).to_have_text("tokenprior compare CONFIG")

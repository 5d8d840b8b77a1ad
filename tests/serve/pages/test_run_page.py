"""The page of a run: where it stands, its curves, what went wrong, and the story."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

import story
import world
from pages_site import Served, aside, served
from tokenprior.learn import learn
from tokenprior.models.base import Request
from tokenprior.models.scripted import ScriptedModel
from tokenprior.progress import Progress
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Rollout, StopReason
from tokenprior.store import open_store

Look = Callable[[Served, str], Page]
RUN = "/runs/story-1a2b"


def test_a_newcomer_reads_why_a_lesson_was_dropped(pages: Served, look: Look) -> None:
    """From the list of runs to the reason, by links alone."""
    page = look(pages, "/")
    page.locator("#lines tr", has_text="learn").get_by_role("link", name="story").click()
    dropped = page.locator("li", has_text="prefer capitals").filter(has_text="dropped: the gate refused it").last
    expect(dropped).to_contain_text("The learning model's reason: a wrong turn")
    step = page.locator("#step-2")
    expect(step).to_contain_text("the candidate is refused, for it did worse: -0.732")
    expect(step).to_contain_text("It did worse on tasks that no lesson was drawn from, so these changes are dropped.")
    dropped.get_by_role("link", name="G2").click()
    expect(page.locator("main")).to_contain_text("It went in step 2: dropped at the gate: the candidate is refused")


def test_the_story_tells_what_was_tried_who_won_what_was_learned_and_what_ships(pages: Served, look: Look) -> None:
    page = look(pages, RUN)
    first = page.locator("#step-0")
    for words in (
        "12 attempts at 4 tasks, with no lesson in the prompt",
        "The attempts lay furthest apart at t1: attempt 2 won (0 0 1); t11: attempt 0 won (1 0 0).",
        "4 lessons were drawn from the groups",
        "New lesson G0 used from here on",
        "The learning model's reason: all groups say so",
        "the candidate ships: +0.393",
        "Chance alone would do as well in fewer than 0.1% of cases",
        "Used from here on: e0cdac1ce13c",
    ):
        expect(first).to_contain_text(words)
    expect(page.locator("#step-1")).to_contain_text("No gate task came out differently, so nothing says that it helps.")
    page.locator("#step-1 summary").click()
    expect(page.locator("#step-1")).to_contain_text("Reworded G9: there is no G9")
    expect(page.locator("#step-3")).to_contain_text("Made one of several G0, G1 kept in learning, not used")
    assert page.locator("ol.story > li").count() == 6


def test_attempts_that_saw_a_part_of_the_library_are_told_apart(pages: Served, look: Look) -> None:
    page = look(pages, RUN)
    step = page.locator("#step-3")
    expect(step).to_contain_text("4 attempts with the whole library: mean reward 0.750; 8 with a part of it or none")
    expect(step).to_contain_text("t1: attempts 0, 1 won (1 | 1 0)")
    expect(page.locator("#step-0")).to_contain_text("Mean reward 0.167.")  # there was no library to see a part of


def test_steps_that_changed_nothing_are_folded_and_nothing_is_said_twice(pages: Served, look: Look) -> None:
    page = look(pages, RUN)
    last = page.locator("#step-5")
    expect(last.locator("details > p").first).to_be_hidden()
    last.get_by_text("12 attempts, mean reward 0.750 with the whole library: nothing changed").click()
    expect(last.locator("details > p").first).to_be_visible()
    expect(page.locator("#step-4")).to_contain_text("Found again: G3.")
    expect(page.locator("#step-2")).to_contain_text("Then 2 of 2 of its changes alone: with the same outcome.")
    assert (page.locator("#step-2").text_content() or "").count("-0.732") == 1


def test_a_step_without_a_trial_says_why(own_store: Path, look: Look) -> None:
    aside(story.fill(own_store, "loud", story.loud, gate="none", inclusion_pairs=2, group_size=4, epochs=1))
    with served(own_store) as site:
        page = look(site, "/runs/loud-1a2b")
        expect(page.locator("#step-1")).to_contain_text("Nothing was tried: this run has no gate.")
        expect(page.locator("#step-1")).to_contain_text("All with a part of it or none, to measure the lessons")


def test_curves_are_drawn_from_the_table_behind_them(pages: Served, look: Look) -> None:
    page = look(pages, RUN)
    expect(page.locator("figure.curve canvas")).to_have_count(3)  # no token was counted, so nothing to draw
    page.get_by_text("The same as a table").click()
    rows = page.locator("#figures tbody tr")
    expect(rows).to_have_count(7)
    expect(rows.first).to_contain_text("start")
    expect(rows.first).to_contain_text("0.375 [")
    expect(rows.nth(1)).to_contain_text("+0.393 [+0.279, +0.526]")
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("figure.curve canvas")).to_have_count(3)
    fits = "done => document.documentElement.scrollWidth <= 390 ? done() : setTimeout(() => look(done), 50)"
    page.evaluate(f"new Promise(done => {{ const look = {fits}; look(done); }})")


def test_the_page_grows_while_the_run_goes_on(own_store: Path, look: Look) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def policy(request: Request) -> str:
        begun.set()
        assert go_on.wait(30)
        return story.policy(request)

    async def run() -> None:
        agent = world.agent(ScriptedModel(policy))
        tasks = list(world.tasks(12))
        with open_store(own_store) as store:
            record = store.open_run("live-1", name="live", kind="learn", config={})
            await learn(
                tasks,
                agent=agent,
                verifier=world.SmallLetters(),
                model=ScriptedModel(story.learner),
                record=record,
                config=world.config(),
            )
            record.close("done")

    with served(own_store) as site:
        worker = threading.Thread(target=lambda: aside(run()))
        worker.start()
        try:
            assert begun.wait(30)
            page = look(site, "/runs/live-1")
            expect(page.locator("#now")).to_contain_text("running")
            expect(page.locator("#steps")).to_contain_text("No step is finished yet.")
            page.evaluate("window.same = true")
        finally:
            go_on.set()
            worker.join()
        expect(page.locator("#now")).to_contain_text("done")
        expect(page.locator("ol.story > li")).to_have_count(6)
        expect(page.locator("figure.curve canvas")).to_have_count(2)  # neither a gate nor a token to draw
        assert page.evaluate("window.same"), "the page was not loaded again"
        expect(page.locator("[hx-trigger]")).to_have_count(0)  # what has ended is not asked for again


def test_progress_and_budget_of_a_run_on_its_way(own_store: Path, look: Look) -> None:
    with served(own_store) as site, open_store(own_store) as other:
        record = other.open_run("live-1", name="live", kind="learn", config={"budget": {"calls": 10, "usd": None}})
        failures = {"timeout": 2}
        now = Progress(
            phase="rollouts", step=1, steps=6, done=5, total=20, scored=2, reward_sum=1.0, unscored=1, failures=failures
        )
        record.note(now)
        page = look(site, "/runs/live-1")
        expect(page.locator("#now")).to_contain_text("step 1 of 6, rollouts: 5 of 20 attempts")
        expect(page.locator("#now")).to_contain_text("mean reward so far 0.500, 1 unscored, 2 failed: timeout")
        expect(page.locator("progress")).to_have_attribute("value", "5")
        expect(page.locator("#now")).to_contain_text("0 of 10")
        record.close("stopped", "interrupted")
        expect(page.locator("#now")).to_contain_text("the same command goes on from here")


def test_attempts_without_a_reward_are_listed_by_reason(own_store: Path, look: Look) -> None:
    async def fill() -> None:
        with open_store(own_store) as store:
            record = store.open_run("bad-1", name="bad", kind="learn", config={})
            for index in range(60):
                failed = Rollout(
                    task_id=f"t/{index % 7}",
                    index=index,
                    messages=(),
                    output="",
                    stop=StopReason.FAILED,
                    failure=Failure(kind="timeout", detail=f"no reply <b>{index}</b>"),
                )
                await record.shelf.save("rollout", 0, "h", failed, None, Reward.unscored("the attempt failed: timeout"))
            odd = Rollout(task_id="odd", index=0, messages=(), output="?")
            await record.shelf.save(
                "rollout", 0, "h", odd, None, Reward.unscored("no answer: nothing in the last line")
            )
            record.close("done")

    aside(fill())
    with served(own_store) as site:
        page = look(site, "/runs/bad-1")
        expect(page.locator("#steps")).to_contain_text("failed: timeout: 60 of 61 practice attempts")
        page.get_by_role("link", name="unscored: no answer").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody")).to_contain_text("nothing in the last line")
        page.go_back()
        page.get_by_role("link", name="failed: timeout").click()
        expect(page.locator("tbody tr")).to_have_count(50)
        expect(page.locator("tbody tr").first).to_contain_text("timeout: no reply <b>0</b>")
        page.get_by_role("link", name="Next page").click()
        expect(page.locator("tbody tr")).to_have_count(10)


def test_earlier_steps_are_told_on_pages_of_their_own(own_store: Path, look: Look) -> None:
    aside(story.fill(own_store, "long", world.learner, gate="none", epochs=4))
    with served(own_store) as site:
        page = look(site, "/runs/long-1a2b")
        expect(page.locator("ol.story > li")).to_have_count(10)
        expect(page.locator("#step-11")).to_contain_text("At the gate.")
        page.get_by_role("link", name="Earlier steps").click()
        expect(page.locator("ol.story > li")).to_have_count(2)
        expect(page.locator("#step-0")).to_contain_text("There was no trial: what was learned is used from here on.")


def test_a_comparison_shows_what_it_took_and_no_story(pages: Served, look: Look) -> None:
    page = look(pages, "/runs/story-5e5f")
    expect(page.get_by_role("heading", name="The story")).to_have_count(0)
    expect(page.get_by_role("navigation", name="Run")).not_to_contain_text("Library")

"""Hostile content on every page: no script of it runs, nothing of it is lost, and no page breaks.

The texts come by the way on which a model's words come: over HTTP, from an endpoint, through a run. Where a text of the
store comes from elsewhere (an author, a reason, the name of an arm), it is written there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from playwright.sync_api import BrowserContext, Page, expect

import endpoint_run
import world
from fake_openai import FakeOpenAI
from pages_site import Served, aside, served
from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.models.base import Request
from tokenprior.operation import Modify
from tokenprior.store import Store, open_store
from tokenprior.store.attempts import groups
from tokenprior.store.edits import edit

MARKS = '"></textarea></script><script>window.hit=1</script><img src=x onerror="window.hit=2">'
MARKS += "<svg onload=window.hit=3></svg><a href='javascript:window.hit=4'>x</a>'\"&{{7*7}}{% raw %}"
UNSEEN = "\u202egnp.exe\u202c\u0000\x1b[31m\u200b\ufeff\ud800 end"
LONG = 1_000_000

Look = Callable[[Served, str], Page]


@dataclass(frozen=True)
class Hostile:
    """A store full of hostile texts, being served, and the address of every page of it."""

    site: Served
    pages: list[str]


def answer(request: Request) -> str:
    if request.key.phase == "contrast":
        lesson = {
            "name": MARKS[:40],
            "lesson": f"When a word is to be repeated, write it in small letters {MARKS[60:]}",
        }
        return json.dumps({"difference": MARKS, "lessons": [lesson]})
    if request.key.phase == "revise":
        return world.learner(request).replace("all groups say so", "all groups say so <img src=x onerror=window.hit=5>")
    word = request.messages[-1].content.rpartition("Repeat: ")[2]
    told = "small letters" in request.messages[0].content
    long = "y" * LONG if world.chance(word) < 0.1 else ""
    return f"{MARKS}{UNSEEN}{long}\n{word if told or world.chance(word, request.seed) < 0.4 else word.upper()}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        {"id": f"{task.id}{MARKS}", "question": f"{MARKS}{UNSEEN}\nRepeat: {task.answer}", "answer": task.answer}
        for task in world.tasks(42)
    ]
    with FakeOpenAI(answer) as server:
        config = endpoint_run.folder(folder, server)
        value = yaml.safe_load(config.read_text())
        value["tasks"] |= {"path": "a&<img src=x onerror=window.hit=6>.jsonl", "fields": {"id": "id"}}
        value["agent"]["instructions"] = f"Do what is asked. {MARKS}"
        value |= {"verifier": {"kind": "exact", "take": "last_line"}, "learner": server.model}
        (folder / value["tasks"]["path"]).write_text("\n".join(json.dumps(row) for row in rows))
        config.write_text(yaml.safe_dump(value))
        hostile_library = Library(experiences=(Experience(id="G0", name=MARKS, text=MARKS),))
        run = aside(endpoint_run.fill(config, {MARKS[:60]: hostile_library}))
    path = folder / "tokenprior.db"
    with open_store(path) as store:
        words = f"When a word is given, repeat it in small letters {MARKS[60:]}"
        changed = [Modify(id="G0", name=MARKS[:30], text=words[:180], reason=MARKS)]
        edit(store, run, changed, author=MARKS[:60], reason=MARKS + UNSEEN)
        store.pin(run, store.library(run).version, MARKS)
        compared = next(one.id for one in store.runs() if one.kind == "compare")
        pages = _pages(store, run, compared)
    with served(path) as running:
        yield Hostile(running, pages)


def _pages(store: Store, run: str, compared: str) -> list[str]:
    at, task = f"/runs/{run}", quote(groups(store, run, limit=1)[0].task)
    long = next(row for row in store.rows("rollouts", run) if len(row["rollout"]["output"]) > LONG)
    held_out = quote(next(iter(store.rows("evaluations", compared)[0]["report"]["tasks"])))
    versions = [one.version for one in store.versions(run)]
    call = store.rows("calls", run)[0]["id"]
    return [
        "/",
        at,
        f"{at}/library",
        f"{at}/library/diff?before={versions[0]}&after={versions[-1]}",
        f"{at}/versions",
        f"{at}/lessons/G0",
        f"{at}/groups",
        f"{at}/group?step=0&task={task}",
        f"{at}/attempt?step=0&task={task}&attempt=0",
        f"{at}/attempt?phase={long['phase']}&step={long['step']}&task={quote(long['task'])}&attempt={long['attempt']}",
        f"{at}/attempts?phase=rollout&trouble={quote(MARKS)}",
        f"{at}/comparison",
        f"/runs/{compared}/comparison/task?task={held_out}",
        f"{at}/calls?text={quote(MARKS[:40])}",
        f"{at}/calls/{call}",
        "/start",
        f"/start?data={quote('a&<img src=x onerror=window.hit=6>.jsonl')}",
        f"/start?data={quote(MARKS)}",
        f"/nowhere/{quote(MARKS)}",
        f"{at}/comparison?arm={quote(MARKS)}",
    ]


def test_no_script_of_others_runs_on_any_page(hostile: Hostile, context: BrowserContext) -> None:
    told: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: told.append(f"{page.url}: {message.text}"))
    page.on("dialog", lambda dialog: (told.append(f"{page.url}: {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: told.append(f"{page.url}: {error}"))
    page.goto(hostile.site.entry)
    for path in hostile.pages:
        page.goto(hostile.site.base + path)
        for summary in page.locator("summary").all():
            summary.click()
        found = page.evaluate(
            """() => ({
                hit: window.hit ?? null,
                scripts: [...document.scripts].filter(s => !s.src.startsWith(location.origin + '/static/')).length,
                handlers: [...document.querySelectorAll('*')].flatMap(e => [...e.attributes])
                    .filter(a => /^on/i.test(a.name) || /^\\s*javascript:/i.test(a.value)).length,
                foreign: document.querySelectorAll('main img, main iframe, main object, main embed').length,
            })"""
        )
        assert found == {"hit": None, "scripts": 0, "handlers": 0, "foreign": 0}, path
    # What answers 4xx is told by the browser; a script that the policy had to stop would be told too.
    assert [line for line in told if "the server responded with a status of 40" not in line] == []


def test_the_policy_stops_a_script_that_would_have_got_in(hostile: Hostile, look: Look) -> None:
    page = look(hostile.site, "/")
    stopped = page.evaluate(
        """async () => {
            const stopped = []
            document.addEventListener('securitypolicyviolation', e => stopped.push(e.effectiveDirective))
            document.body.insertAdjacentHTML('beforeend', '<img src=/static/no.png onerror="window.hit=1">'
                + '<a id=bad href="javascript:window.hit=2">x</a><iframe src="/"></iframe>'
                + '<form id=away action="http://127.0.0.2/"></form>')
            const script = document.createElement('script')
            script.textContent = 'window.hit=3'
            document.body.append(script)
            document.getElementById('bad').click()
            document.getElementById('away').submit()
            await fetch('http://127.0.0.2:9/').catch(() => 0)
            await new Promise(done => setTimeout(done, 300))
            return {hit: window.hit ?? null, stopped: [...new Set(stopped)].sort()}
        }"""
    )
    assert stopped["hit"] is None
    assert {"connect-src", "form-action", "script-src-elem"} <= set(stopped["stopped"])


def test_what_cannot_be_seen_is_written_out_and_long_texts_are_cut_with_a_way_to_the_whole(
    hostile: Hostile, look: Look
) -> None:
    path = next(path for path in hostile.pages if "/attempt?phase" in path)
    page = look(hostile.site, path)
    expect(page.locator(".said.user")).to_contain_text("⟨U+202E⟩gnp.exe⟨U+202C⟩⟨U+0000⟩⟨U+001B⟩[31m⟨U+200B⟩⟨U+FEFF⟩")
    assert len(page.content()) < 60_000
    link = page.get_by_role("link", name="the whole text").last
    whole = page.request.get(hostile.site.base + str(link.get_attribute("href")))
    assert whole.headers["content-type"].startswith("text/plain")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert len(whole.body()) > LONG


def test_a_page_of_hostile_texts_stays_small(hostile: Hostile, look: Look) -> None:
    page = look(hostile.site, "/")
    sizes = {path: len(page.request.get(hostile.site.base + path).body()) for path in hostile.pages}
    assert max(sizes.values()) < 400_000, sizes


def test_a_report_of_hostile_texts_has_no_script_and_no_way_out(
    hostile: Hostile, context: BrowserContext, tmp_path: Path
) -> None:
    page = context.new_page()
    page.goto(hostile.site.entry)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    for run in hostile.site.store.runs():
        answer = page.request.get(f"{hostile.site.base}/runs/{run.id}/report")
        assert answer.headers["content-disposition"].startswith("attachment")
        file = tmp_path / f"{run.id}.html"
        file.write_bytes(answer.body())
        page.goto(file.as_uri())
        assert page.evaluate("window.hit ?? null") is None
        assert page.locator("script, img, iframe, [onerror], [onload]").count() == 0
        assert "⟨U+" in page.content() or run.kind == "compare"
    assert told == []

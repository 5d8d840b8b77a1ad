"""Every page for everybody: axe finds nothing against WCAG AA, dark or light, and the keyboard reaches all there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from pages_site import Served, served
from tokenprior.store import open_store
from tokenprior.store.attempts import groups

AXE = Path(__file__).parents[2] / "node" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

VIOLATIONS = """async rules => {
    const found = await axe.run(document, {runOnly: {type: 'tag', values: rules}})
    const told = node => node.target + ' ' + node.failureSummary
    return found.violations.map(one => `${one.id}: ${one.nodes.slice(0, 3).map(told).join('; ')}`)
}"""

# Of a group of radio buttons the chosen one is reached, and the arrow keys lead to the others.
REACHABLE = """() => {
    const kinds = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]'
    const folded = 'details:not([open]) > :not(summary)'
    const chosen = e => e.type !== 'radio' || e.checked
    return [...document.querySelectorAll(kinds)]
        .filter(e => e.checkVisibility() && !e.disabled && chosen(e) && !e.closest(folded)).length
}"""

FOCUSED = """() => {
    const e = document.activeElement
    if (e === document.body) return null
    const style = getComputedStyle(e)
    e.dataset.been ??= String(document.querySelectorAll('[data-been]').length)
    return {been: e.dataset.been, name: e.tagName + ' ' + (e.textContent || e.name || '').trim().slice(0, 40),
            seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2}
}"""


@pytest.fixture(scope="module")
def site(endpoint_folder: tuple[Path, str]) -> Iterator[tuple[Served, list[str]]]:
    """Pages of a real run, and the address of each."""
    folder, run = endpoint_folder
    with open_store(folder / "tokenprior.db") as store:
        task = quote(groups(store, run, kind="mixed", limit=1)[0].task)
        compared = next(one.id for one in store.runs() if one.kind == "compare")
        held_out = quote(next(iter(store.rows("evaluations", compared)[0]["report"]["tasks"])))
        versions = [one.version for one in store.versions(run)]
        call = store.rows("calls", run)[0]["id"]
    at = f"/runs/{run}"
    paths = ["/", at, f"{at}/library", f"{at}/versions", f"{at}/lessons/G0", f"{at}/groups"]
    paths += [f"{at}/library/diff?before={versions[0]}&after={versions[-1]}", f"{at}/group?step=0&task={task}"]
    paths += [f"{at}/edit", f"{at}/edit?op=Merge", f"{at}/edit?op=Delete&id=G0"]
    paths += [f"{at}/attempt?step=0&task={task}&attempt=0", f"{at}/comparison", f"{at}/attempts?trouble=none"]
    paths += [f"/runs/{compared}/comparison/task?task={held_out}", f"{at}/calls", f"{at}/calls/{call}"]
    paths += ["/start", "/start?data=tasks.jsonl", "/nowhere"]
    with served(folder / "tokenprior.db") as running:
        yield running, paths


def signed_in(browser: Browser, site: Served, scheme: str) -> Page:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(site.entry)
    return page


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: npm install in tests/node brings it")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(browser: Browser, site: tuple[Served, list[str]], scheme: str) -> None:
    running, paths = site
    page = signed_in(browser, running, scheme)
    source, found = AXE.read_text(), {}
    for path in paths:
        page.goto(running.base + path)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.evaluate(source)
        if violations := page.evaluate(VIOLATIONS, RULES):
            found[path] = violations
    page.context.close()
    assert found == {}


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: npm install in tests/node brings it")
def test_a_form_with_mistakes_and_one_with_findings_pass_too(browser: Browser, site: tuple[Served, list[str]]) -> None:
    running, _ = site
    page = signed_in(browser, running, "light")
    for group_size in ("none", "3"):
        page.goto(f"{running.base}/start?data=tasks.jsonl")
        page.locator("#group_size").fill(group_size)
        page.locator("#to").fill("another.yaml")
        page.get_by_role("button", name="Check it").click()
        page.locator("#group_size-error, #found").first.wait_for()
        page.evaluate(AXE.read_text())
        assert page.evaluate(VIOLATIONS, RULES) == []
    page.context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: npm install in tests/node brings it")
def test_a_report_passes_too(browser: Browser, site: tuple[Served, list[str]], tmp_path: Path) -> None:
    running, _ = site
    for scheme in ("light", "dark"):
        page = signed_in(browser, running, scheme)
        for run in running.store.runs():
            file = tmp_path / f"{run.id}.html"
            file.write_bytes(page.request.get(f"{running.base}/runs/{run.id}/report").body())
            page.goto(file.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            page.evaluate(AXE.read_text())
            assert page.evaluate(VIOLATIONS, RULES) == [], (scheme, run.id)
        page.context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    browser: Browser, site: tuple[Served, list[str]]
) -> None:
    running, paths = site
    page = signed_in(browser, running, "light")
    for path in paths:
        page.goto(running.base + path)
        wanted, been = page.evaluate(REACHABLE), set()
        for _ in range(wanted + 5):
            page.keyboard.press("Tab")
            if (at := page.evaluate(FOCUSED)) is None:
                break
            assert at["seen"], f"{path}: {at['name']} does not show that it has the focus"
            been.add(at["been"])
        assert len(been) >= wanted, f"{path}: {len(been)} of {wanted} were reached"
    page.context.close()


def test_no_page_is_wider_than_a_small_screen(browser: Browser, site: tuple[Served, list[str]]) -> None:
    running, paths = site
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(running.entry)
    for path in paths:
        page.goto(running.base + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    context.close()

"""Screenshots: the pictures of the README, taken from the pages of a real run.

    make demo && python benchmarks/screenshots.py --store examples/demo/tokenprior.db

Serves the store, opens pages of its newest learning run in Chromium and writes `docs/images/*.png`: the run (light),
its library (dark), a group where some attempts won and some lost, and the comparison. It needs the extra `dev` and a
Chromium; the pictures are in the size of a small laptop.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from tokenprior.store import open_store
from tokenprior.store.attempts import groups

WIDTH, HEIGHT = 1100, 760
MOST_BYTES = 150_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def pictures(store: Path) -> dict[str, tuple[str, str, str]]:
    """By name of the picture: the page, what of it is brought to the top, and the colours."""
    with open_store(store) as kept:
        run = next((one.id for one in kept.runs() if one.kind == "learn"), None)
        if run is None:
            sys.exit(f"{store}: holds no learning run")
        mixed = groups(kept, run, kind="mixed", limit=1) or groups(kept, run, limit=1)
    at = f"/runs/{quote(run, safe='')}"
    group = f"{at}/group?step={mixed[0].step}&task={quote(mixed[0].task)}"
    return {
        "run": (at, "header", "light"),
        "library": (f"{at}/library", "header", "dark"),
        "group": (group, "#task", "light"),
        "comparison": (f"{at}/comparison", "header", "dark"),
    }


def take(base: str, entry: str, wanted: dict[str, tuple[str, str, str]], to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, (path, top, colours) in wanted.items():
            context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=colours)
            page = context.new_page()
            page.goto(entry)
            page.goto(base + path)
            page.wait_for_load_state("networkidle") if name != "run" else page.locator("canvas").first.wait_for()
            page.evaluate("top => document.querySelector(top).scrollIntoView()", top)
            file = to / f"{name}.png"
            page.screenshot(path=file)
            size = file.stat().st_size
            print(f"{file}  {size / 1000:.0f} kB{'  larger than it should be' if size > MOST_BYTES else ''}")
            context.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent.parent / "docs" / "images")
    arguments = parser.parse_args()
    wanted = pictures(arguments.store)
    command = [sys.executable, "-m", "tokenprior", "ui", "--port", "0", "--store", str(arguments.store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            entry = server.stdout.readline().strip()
            take(entry.partition("/?")[0], entry, wanted, arguments.to)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

"""tokenprior report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing


def report(
    run: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its name (the newest).")],
    to: Annotated[Path, typer.Option(help="The file to write, such as report.html.")],
    keep_private: Annotated[
        bool, typer.Option("--keep-private", help="Do not mask e-mail addresses and the like. Keys are always masked.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a learning run with its story, or a comparison, as one self-contained page to send to somebody."""
    from tokenprior.serve.pages.report import page_of
    from tokenprior.store import open_store

    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        text = page_of(opened, record, mask=not keep_private)
    to.write_text(text, encoding="utf-8")
    print(f"{to}: {len(text.encode()) / 1000:,.0f} kB, needs nothing but a browser")

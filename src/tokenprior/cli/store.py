"""tokenprior store size, tokenprior store archive, tokenprior store vacuum"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing

if TYPE_CHECKING:
    from tokenprior.store import Store

app = typer.Typer(help="What a store takes, and where its runs are kept.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def size(store: StoreOption = DEFAULT_STORE) -> None:
    """Show what takes how much room, the largest run first."""
    from tokenprior.store import open_store
    from tokenprior.store.archive import size_of

    with open_store(existing(store)) as opened:
        found = size_of(opened)
        free = f", of which {_bytes(found.free_bytes)} are free: `tokenprior store vacuum` gives them back"
        print(f"{opened.shown}: {_bytes(found.size_bytes)} on the disk{free if found.free_bytes else ''}")
        for one in found.runs:
            attempts, calls = one.rows.get("rollouts", 0), one.rows.get("calls", 0)
            counts = f"{attempts:>9,} attempts  {calls:>9,} calls"
            print(f"{one.run.id:<40} {one.run.kind:<8} {one.run.state:<8} {counts}  {_bytes(one.size_bytes):>9}")
        if found.served:
            print(f"{'served requests':<58} {found.served:>9,} requests {'':>16}  {_bytes(found.served_bytes):>9}")


@app.command()
def archive(
    to: Annotated[str, typer.Option(help="The other store: a file, made if it is not there, or an address.")],
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Ids of runs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs, and what was recorded of served requests.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Copy only: leave them where they are too.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Move whole runs to another store, each checked row by row before it is taken out here."""
    from tokenprior.errors import ConfigError, RunLocked
    from tokenprior.store import open_store
    from tokenprior.store.archive import archive, archive_served

    if every == bool(runs):
        raise ConfigError("store archive: expected either ids of runs or --all")
    with open_store(existing(store)) as source, open_store(to) as target:
        names = [record.id for record in source.runs()] if every else _ids(source, runs or [])
        if not keep:
            _say_what_is_reused(source, names)
        at_work: list[str] = []
        for run in names:
            try:
                counts = archive(source, run, target, keep=keep)
            except RunLocked:
                at_work.append(run)
                continue
            rows = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in counts.items() if count)
            print(f"{run}: {'copied' if keep else 'moved'} to {target.shown}, checked: {rows or 'no rows'}", flush=True)
        if every and (served := archive_served(source, target, keep=keep)):
            print(f"served requests: {'copied' if keep else 'moved'} to {target.shown}, checked: {served:,}")
        if at_work:
            raise RunLocked(f"left as they are, for processes are at work on them: {', '.join(at_work)}")


@app.command()
def vacuum(store: StoreOption = DEFAULT_STORE) -> None:
    """Give the room back that is not used any more; whoever writes waits meanwhile."""
    from tokenprior.store import open_store
    from tokenprior.store.archive import vacuum

    with open_store(existing(store)) as opened:
        before, after = vacuum(opened)
        print(f"{opened.shown}: {_bytes(before)} before, {_bytes(after)} now")


def _ids(store: Store, runs: list[str]) -> list[str]:
    """The runs that are meant; only whole ids, for what is moved is gone here."""
    from tokenprior.errors import NotFound

    known = [record.id for record in store.runs()]
    for run in runs:
        if run not in known:
            raise NotFound(f"{store.shown}: no run of the id {run!r}; there are: {', '.join(known[:8]) or 'none yet'}")
    return list(dict.fromkeys(runs))


def _say_what_is_reused(store: Store, runs: list[str]) -> None:
    from tokenprior.store.archive import reused
    from tokenprior.text import many

    for one in reused(store, runs):
        found = f"{many(one.calls, 'paid call')} and {many(one.rollouts, 'attempt')}"
        others = ", ".join(one.others[:4]) + (" ..." if len(one.others) > 4 else "")
        print(
            f"{one.run}: other runs of its name stay ({others}), and can no longer re-use its {found} if they go on",
            flush=True,
        )


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

"""tokenprior history, tokenprior rollback, tokenprior pin"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing, naming, place_of

if TYPE_CHECKING:
    from tokenprior.store import LibraryVersion, Store

RunArgument = Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its name (the newest).")]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever reads the history.")]


def history(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show every version of a run's library with its evidence, oldest first: what ships, and what is used."""
    import json
    from datetime import datetime

    from tokenprior.store import open_store

    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        found = opened.versions(record.id)
        pins = opened.rows("pins", record.id)
        used = opened.library(record.id)
    if as_json:
        value = {"run": record.id, "used": used.version, "versions": [one.to_json() for one in found], "pins": pins}
        print(json.dumps(value, indent=1))
        return
    for one in found:
        print(_line(one))
    if not found:
        print("no step is finished yet")
    for pin in pins:
        when = datetime.fromtimestamp(pin["pinned_at"]).strftime("%Y-%m-%d %H:%M")
        print(
            f"{when}  {'pinned ' + pin['version'] if pin['version'] else 'no longer pinned'}  {pin['reason']}".rstrip()
        )
    print(f"used: {used.version}, {_count(len(used))}")


def _line(one: LibraryVersion) -> str:
    marks = [mark for mark, holds in (("ships", one.ships), ("pinned", one.pinned)) if holds]
    if one.learning and not one.ships:
        marks.append("learning goes on from it")
    where = "start" if one.step < 0 else f"step {one.step}"
    shown = f"{where:<8} {one.version}  {_count(one.experiences):<14}  {'; '.join(one.sentences)}"
    return f"{shown}  <- {', '.join(marks)}" if marks else shown


def _count(experiences: int) -> str:
    return f"{experiences} experience{'' if experiences == 1 else 's'}"


def rollback(
    run: RunArgument,
    to: Annotated[
        str | None,
        typer.Option(help="A version, or a step for what shipped after it; what shipped before by default."),
    ] = None,
    reason: ReasonOption = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Use an earlier version of a run's library from now on. Nothing is lost, and `pin RUN --off` undoes it."""
    from tokenprior.store import open_store

    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        version = _shipped_before(opened, record.id) if to is None else _version(opened, record.id, to)
        _pin(opened, record.id, version, reason or "rolled back", store)


def pin(
    run: RunArgument,
    version: Annotated[
        str | None, typer.Argument(help="A version, or a step for what shipped after it; `history` names them.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Go back to what learning ships.")] = False,
    reason: ReasonOption = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Use one version of a run's library from now on, whatever learning ships."""
    from tokenprior.errors import ConfigError, NotFound
    from tokenprior.store import open_store

    if off == (version is not None):
        raise ConfigError("pin: expected either a version or --off")
    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        if off and _pinned(opened, record.id) is None:
            raise NotFound(f"run {record.id}: no version is pinned")
        _pin(opened, record.id, None if version is None else _version(opened, record.id, version), reason, store)


def _pin(store: Store, run: str, version: str | None, reason: str, where: str) -> None:
    """Pin, then say what is used and how to undo it."""
    pinned, before = _pinned(store, run), store.library(run)
    store.pin(run, version, reason)
    used = store.library(run)
    how = "what learning ships" if version is None else "pinned"
    print(f"{run} uses library {used.version} ({_count(len(used))}, {how}); before: {before.version}")
    print(f"undo: tokenprior pin {run} {pinned or '--off'}{naming(where)}")


def _pinned(store: Store, run: str) -> str | None:
    pins = store.rows("pins", run)
    version: str | None = pins[-1]["version"] if pins else None
    return version


def _version(store: Store, run: str, text: str) -> str:
    """The version that a user names: itself, or what shipped after a step."""
    from tokenprior.errors import ConfigError, NotFound

    place = place_of(text)
    if place is None:
        raise ConfigError(f"{text!r}: expected the beginning of a version (hexadecimal), or a step from 0")
    if isinstance(place, str):
        return store.library(run, place).version
    for row in store.rows("steps", run):
        if row["step"] == place:
            return str(row["shipped_version"])
    raise NotFound(f"run {run} has no step {place}: tokenprior history shows what there is")


def _shipped_before(store: Store, run: str) -> str:
    """What shipped before the version that is used; of one that never shipped, what shipped when it was tried."""
    from tokenprior.errors import NotFound

    used, found = store.library(run).version, store.versions(run)
    places = [place for place, one in enumerate(found) if one.version == used]
    shipped = [place for place in places if found[place].shipped]
    place = (shipped or places or [0])[-1]
    for one in reversed(found[:place]):
        if one.shipped and one.version != used:
            return one.version
    raise NotFound(f"run {run}: nothing shipped before {used}, which is used: tokenprior history shows what there is")

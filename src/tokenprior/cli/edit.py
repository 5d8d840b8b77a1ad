"""tokenprior edit"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing, naming

if TYPE_CHECKING:
    from tokenprior.operation import Operation


def edit(
    run: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its name (the newest).")],
    identity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The lesson, such as G3; none to add one or to merge some.")
    ] = None,
    text: Annotated[str, typer.Option(help="The lesson's words: 'When ..., ...'.")] = "",
    name: Annotated[str, typer.Option(help="A few words before them; a reworded lesson keeps its own.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Take the lesson out.")] = False,
    merge: Annotated[str, typer.Option(help="Make one of several: G1,G2; it keeps the first id.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the history.")] = "",
    author: Annotated[str, typer.Option(help="Who; you by default.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Reword, add, merge or delete a lesson of what a run uses. Learning goes on from its own library."""
    import getpass

    from tokenprior.store import open_store
    from tokenprior.store.edits import edit as edit_library

    operation = _operation(identity, text, name, delete, merge)
    with open_store(existing(store)) as opened:
        record = opened.find_run(run)
        before = opened.library(record.id)
        pins = opened.rows("pins", record.id)
        made = edit_library(opened, record.id, [operation], author=author or getpass.getuser(), reason=reason)
    undo = pins[-1]["version"] if pins and pins[-1]["version"] else "--off"
    print(f"{record.id} uses library {made.version}, made by hand; before: {before.version}")
    print(f"undo: tokenprior pin {record.id} {undo}{naming(store)}")


def _operation(identity: str | None, text: str, name: str, delete: bool, merge: str) -> Operation:
    """The one operation that the options ask for."""
    from tokenprior.errors import ConfigError
    from tokenprior.experience import parse_id
    from tokenprior.operation import Add, Delete, Merge, Modify

    ids: list[str] = []
    for one in merge.split(",") if merge else [identity] if identity else []:
        parsed = parse_id(one)
        if parsed is None:
            raise ConfigError(f"{one!r}: expected the id of a lesson, such as G3")
        ids.append(parsed)
    if delete and (text or merge or identity is None):
        raise ConfigError("edit: --delete stands with one ID and nothing else")
    if merge and identity is not None:
        raise ConfigError("edit: --merge names the lessons; leave the ID out")
    if delete:
        return Delete(id=ids[0])
    if not text:
        raise ConfigError("edit: expected --text with the lesson's words, or ID --delete")
    if merge:
        return Merge(ids=tuple(ids), name=name, text=text)
    return Modify(id=ids[0], name=name, text=text) if ids else Add(name=name, text=text)

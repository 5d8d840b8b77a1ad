"""Edit: the forms by which a person adds, rewords, merges and deletes lessons of what is used.

A form that was refused comes back with the reason and with what was typed, made from the version that is used by then.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence

from aiohttp import web

from tokenprior.errors import ConfigError, EditRefused
from tokenprior.library import Library
from tokenprior.operation import Add, Delete, Merge, Modify, Operation
from tokenprior.redact import redact
from tokenprior.serve.pages.site import SITE, ask, quoted, render, run_of
from tokenprior.store import RunRecord
from tokenprior.store.edits import edit

OPERATIONS = ("Add", "Modify", "Merge", "Delete")


def routes() -> list[web.RouteDef]:
    return [web.get("/runs/{run}/edit", show), web.post("/runs/{run}/edit", edited)]


async def show(request: web.Request) -> web.Response:
    """A form to add a lesson, to change or delete one, or to make one of several."""
    record = await run_of(request)
    used = await ask(request.app[SITE].store.library, record.id)
    ids = request.query.getall("id", [])
    op = request.query.get("op") or ("Merge" if ids else "Add")
    if op not in OPERATIONS:
        raise ConfigError(f"op={op[:40]}: expected one of {', '.join(OPERATIONS)}")
    return _form(request, record, used, op, ids)


async def edited(request: web.Request) -> web.Response:
    """Carry out an operation by hand, on the version that its form was made from."""
    record, store = await run_of(request), request.app[SITE].store
    form = await request.post()
    given = {key: str(value) for key, value in form.items()}
    ids = [str(one) for one in form.getall("id", [])]
    operation = _operation(given, ids)
    signed = {key: given.get(key, "") for key in ("author", "reason", "made_from")}
    try:
        await ask(edit, store, record.id, [operation], **signed)
    except EditRefused as error:
        used = await ask(store.library, record.id)
        return _form(request, record, used, given["op"], ids, typed=given, error=redact(str(error)))
    raise web.HTTPSeeOther(f"/runs/{quoted(record.id)}/library")


def author() -> str:
    """Who is at this machine, empty if that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return ""


def _form(
    request: web.Request,
    record: RunRecord,
    used: Library,
    op: str,
    ids: Sequence[str],
    *,
    typed: Mapping[str, str] | None = None,
    error: str = "",
) -> web.Response:
    chosen = [used[identity] for identity in dict.fromkeys(ids) if identity in used]
    words = {
        "name": chosen[0].name if chosen else "",
        "text": " ".join(one.text for one in chosen),
        "reason": "",
        "author": author(),
    }
    return render(
        request,
        "edit.html",
        status=409 if error else 200,
        run=record,
        used=used,
        op=op,
        asked=ids,
        chosen=chosen,
        typed={key: (typed or {}).get(key, usual) for key, usual in words.items()},
        error=error,
    )


def _operation(given: Mapping[str, str], ids: Sequence[str]) -> Operation:
    name, text = given.get("name", ""), given.get("text", "")
    match given.get("op"):
        case "Add":
            return Add(name=name, text=text)
        case "Modify" if ids:
            return Modify(id=ids[0], name=name, text=text)
        case "Delete" if ids:
            return Delete(id=ids[0])
        case "Merge":
            return Merge(ids=tuple(ids), name=name, text=text)
        case other:
            raise ConfigError(f"op={str(other)[:40]}: expected Add, Modify, Merge or Delete, with an id")

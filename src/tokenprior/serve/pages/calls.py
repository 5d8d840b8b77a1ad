"""Calls: the ledger of a run, and what each call really said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

from aiohttp import web

from tokenprior.errors import ConfigError, NotFound
from tokenprior.models.base import Phase
from tokenprior.serve.pages.group import conversation
from tokenprior.serve.pages.site import PER_PAGE, SITE, address, ask, number_of, plain_text, quoted, render, run_of
from tokenprior.store import calls as store_calls
from tokenprior.store.calls import Wanted

STATES = ("done", "failed", "sent", "unknown")
LONGEST_SEARCH = 200

Row = dict[str, Any]


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}/calls", calls),
        web.get("/runs/{run}/calls/{call}", call),
        web.get("/runs/{run}/calls/{call}/text", text),
    ]


async def calls(request: web.Request) -> web.Response:
    """Some calls, the newest first."""
    run, store = await run_of(request), request.app[SITE].store
    asked = {name: request.query.get(name, "") for name in ("phase", "state", "model", "task", "text")}
    for name, known in (("phase", get_args(Phase)), ("state", STATES)):
        if asked[name] and asked[name] not in known:
            raise ConfigError(f"{name}={asked[name][:40]}: expected one of {', '.join(known)}")
    if len(asked["text"]) > LONGEST_SEARCH:
        raise ConfigError(f"text: expected at most {LONGEST_SEARCH} characters to look for")
    before = number_of(request, "before")
    found = await ask(store_calls.calls, store, run.id, Wanted(**asked), before=before, limit=PER_PAGE)
    summed = await ask(store_calls.summed, store, run.id)
    return render(
        request,
        "calls.html",
        run=run,
        found=found,
        keys={row["id"]: _key(row["key"]) for row in found.rows},
        asked=asked,
        summed=summed,
        phases=sorted({row["phase"] for row in summed}),
        states=STATES,
        newer=address(request.path, **asked) if before is not None else None,
        older=address(request.path, **asked, before=found.older) if found.older is not None else None,
    )


async def call(request: web.Request) -> web.Response:
    """One call: all that was sent and came back."""
    run = await run_of(request)
    row = await _call(request, run.id)
    at = f"/runs/{quoted(run.id)}/calls/{row['id']}"
    sent, reply = row["request"], row["reply"] or {}
    settings = {key: value for key, value in sent.items() if key != "messages" and value is not None}
    return render(
        request,
        "call.html",
        run=run,
        row=row,
        at=at,
        sent=_messages(sent, lambda part: address(f"{at}/text", part=part)),
        raw=json.dumps(sent, indent=1, ensure_ascii=False),
        settings={key: value for key, value in settings.items() if not isinstance(value, dict | list)},
        shapes={
            key: json.dumps(value, indent=1, ensure_ascii=False)
            for key, value in settings.items()
            if isinstance(value, dict | list)
        },
        reply=reply,
        calls=(reply.get("message") or {}).get("tool_calls", ()) if isinstance(reply.get("message"), dict) else (),
        key=_key(row["key"]),
    )


async def text(request: web.Request) -> web.Response:
    """A text of a call as it is: `request`, `reply`, or the message of a number."""
    run = await run_of(request)
    row = await _call(request, run.id)
    part = request.query.get("part", "request")
    if part == "request":
        return plain_text(json.dumps(row["request"], indent=1, ensure_ascii=False))
    if part == "reply":
        reply = row["reply"] or {}
        return plain_text(reply.get("body") or reply.get("text", ""))
    messages = _messages(row["request"], lambda number: "") or []
    if not part.isdecimal() or len(part) > 6 or int(part) >= len(messages):
        raise NotFound(f"this call has no message {part[:20]!r}")
    message = messages[int(part)]
    words = [
        message["text"],
        message["prior"],
        *(f"calls {one['name']}: {one['arguments']}" for one in message["calls"]),
    ]
    return plain_text("\n\n".join(filter(None, words)))


async def _call(request: web.Request, run: str) -> Row:
    number = request.match_info["call"]
    if not number.isdecimal() or len(number) > 18:
        raise NotFound(f"run {run} has no call {number[:40]!r}")
    return await ask(store_calls.call_of, request.app[SITE].store, run, int(number))


def _messages(sent: Row, whole: Callable[[int], str]) -> list[Row] | None:
    """The messages of a request; `None` where a program sent them in a form that is not known here."""
    try:
        return conversation(sent["messages"], whole)
    except (KeyError, TypeError, ValueError):
        return None


def _key(key: str) -> Row:
    """What a call was for."""
    phase, step, *task, index, turn = key.split("/")
    return {"phase": phase, "step": step, "task": "/".join(task), "rollout": index, "turn": turn}

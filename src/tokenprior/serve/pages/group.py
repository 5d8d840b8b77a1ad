"""Groups: the attempts at one task side by side, what set them apart, what was learned, and what became of it.

In the order of the paper's nouns: task, attempts, rewards, advantage, operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from aiohttp import web

from tokenprior.errors import ConfigError, NotFound
from tokenprior.prior import parted
from tokenprior.rollout import Message
from tokenprior.serve.pages.site import (
    PER_PAGE,
    SITE,
    address,
    ask,
    number_of,
    plain_text,
    quoted,
    render,
    run_of,
)
from tokenprior.serve.pages.words import Piece, word_diff
from tokenprior.store import attempts as store_attempts
from tokenprior.store.attempts import Kind

MOST_DIFFS = 16  # attempts of a group whose words are held against the best

Row = dict[str, Any]


def routes() -> list[web.RouteDef]:
    return [
        web.get("/runs/{run}/groups", groups),
        web.get("/runs/{run}/group", group),
        web.get("/runs/{run}/attempt", attempt),
        web.get("/runs/{run}/attempt/text", text),
    ]


async def groups(request: web.Request) -> web.Response:
    """The groups of a run, some on each page."""
    run = await run_of(request)
    step, kind = number_of(request, "step"), request.query.get("show") or None
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"show={kind[:40]}: expected one of {', '.join(get_args(Kind))}")
    after = _after(request.query.get("after", ""))
    asked = {"step": step, "kind": kind, "after": after, "limit": PER_PAGE + 1}
    found = await ask(store_attempts.groups, request.app[SITE].store, run.id, **asked)
    shown, older = found[:PER_PAGE], None
    if len(found) > PER_PAGE:
        older = address(request.path, step=step, show=kind, after=f"{shown[-1].step}/{shown[-1].task}")
    first = address(request.path, step=step, show=kind) if after else None
    return render(request, "groups.html", run=run, groups=shown, step=step, show=kind, first=first, older=older)


async def group(request: web.Request) -> web.Response:
    """One group."""
    run, store = await run_of(request), request.app[SITE].store
    step, task = number_of(request, "step"), request.query.get("task", "")
    step = 0 if step is None else step
    rows = await ask(store_attempts.attempts_of, store, run.id, "rollout", step, task)
    became = await ask(store_attempts.became_of, store, run.id, step, task)
    best = max((row for row in rows if not isinstance(row["mark"], str)), key=lambda row: row["mark"], default=None)
    return render(
        request,
        "group.html",
        run=run,
        step=step,
        task=task,
        question=_question(rows[0], _at(run.id)),
        attempts=await ask(_side_by_side, rows, best, _at(run.id)),
        best=best,
        rewards=[row["mark"] for row in rows if not isinstance(row["mark"], str)],
        became=became,
        summaries=_summaries(became.advantage),
    )


async def attempt(request: web.Request) -> web.Response:
    """One attempt: the whole conversation."""
    run = await run_of(request)
    row = await ask(store_attempts.attempt_at, request.app[SITE].store, run.id, _place(request))
    found = shown_attempt(row, _at(run.id))
    return render(request, "attempt.html", run=run, row=row, one=found)


async def text(request: web.Request) -> web.Response:
    """A text of an attempt as it is: its `output`, or the message of a number."""
    run = await run_of(request)
    row = await ask(store_attempts.attempt_at, request.app[SITE].store, run.id, _place(request))
    part = request.query.get("part", "output")
    if part == "output":
        return plain_text(row["rollout"]["output"])
    messages = [Message.from_json(one) for one in row["rollout"]["messages"]]
    if not part.isdecimal() or len(part) > 6 or int(part) >= len(messages):
        raise NotFound(f"this attempt has no message {part[:20]!r}")
    message = messages[int(part)]
    calls = "".join(f"\ncalls {call.name}: {call.arguments}" for call in message.tool_calls)
    return plain_text(message.content + calls)


def shown_attempt(row: Mapping[str, Any], at: str) -> Row:
    """An attempt as the templates show it.

    Args:
        at: address of the run.
    """
    rollout, reward = row["rollout"], row["reward"] or {}
    place = {"phase": row["phase"], "step": row["step"], "task": row["task"], "attempt": row["attempt"]}
    place["made_of"] = row["input_hash"]
    return {
        "index": row["attempt"],
        "mark": row["mark"],
        "output": rollout["output"],
        "failure": rollout["failure"],
        "stop": rollout["stop"],
        "usage": rollout["usage"],
        "latency_s": rollout["latency_s"],
        "included": rollout.get("included", ()),
        "extracted": reward.get("extracted"),
        "reason": reward.get("reason", ""),
        "feedback": reward.get("feedback", ""),
        "conversation": conversation(
            rollout["messages"], lambda part: address(f"{at}/attempt/text", **place, part=part)
        ),
        "address": address(f"{at}/attempt", **place),
        "whole": address(f"{at}/attempt/text", **place, part="output"),
        "doubts": sum("doubt" in call for call in rollout["metadata"].get("tools", ())),
    }


def conversation(messages: Sequence[Any], whole: Any) -> list[Row]:
    """Messages as the templates show them, the prior told from the instructions.

    Args:
        whole: gives the address of a message's whole text by its number.
    """
    made: list[Row] = []
    for number, value in enumerate(messages):
        message = Message.from_json(value)
        instructions, prior = parted(message.content) if message.role == "system" else (message.content, "")
        made.append(
            {
                "role": message.role,
                "text": instructions,
                "prior": prior,
                "calls": [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls],
                "images": [image[:200] for image in message.images],
                "whole": whole(number),
            }
        )
    return made


def _side_by_side(rows: Sequence[Row], best: Row | None, at: str) -> list[Row]:
    """The attempts, each with what sets its words apart from the best one's."""
    made: list[Row] = []
    for number, row in enumerate(rows):
        pieces: list[Piece] | None = None
        if best is not None and row is not best and number < MOST_DIFFS and not row["rollout"]["failure"]:
            pieces = word_diff(best["rollout"]["output"], row["rollout"]["output"])
        made.append(shown_attempt(row, at) | {"best": row is best, "pieces": pieces})
    return made


def _question(row: Row, at: str) -> Row:
    """What the agent was asked, as the templates show a message; the first of its user messages."""
    messages = shown_attempt(row, at)["conversation"]
    return next((one for one in messages if one["role"] == "user"), {"text": "", "whole": ""})


def _summaries(advantage: Row | None) -> list[tuple[str, str]]:
    """The attempts that the learning model was shown, each with its summary."""
    if advantage is None or not advantage["summaries"]:
        return []
    return list(zip(advantage["rollouts"], advantage["summaries"], strict=False))


def _at(run: str) -> str:
    return f"/runs/{quoted(run)}"


def _place(request: web.Request) -> tuple[str, int, str, int, str]:
    query = request.query
    step, index = number_of(request, "step"), number_of(request, "attempt")
    return query.get("phase", "rollout"), step or 0, query.get("task", ""), index or 0, query.get("made_of", "")


def _after(given: str) -> tuple[int, str] | None:
    step, slash, task = given.partition("/")
    if not given:
        return None
    if not slash or not step.isdecimal() or len(step) > 9:
        raise ConfigError(f"after={given[:40]}: expected STEP/TASK")
    return int(step), task

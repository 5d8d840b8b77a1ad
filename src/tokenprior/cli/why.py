"""tokenprior why"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tokenprior.cli.show import DEFAULT_STORE, StoreOption, existing, naming

MOST = 12  # lines of one kind; JSON holds them all
MOST_OF_A_LIFE = 40
MOST_TO_LOOK_AT = 4


def why(
    run: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its name (the newest).")],
    identity: Annotated[str, typer.Argument(metavar="ID", help="A lesson, such as G3; it may be gone by now.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show why a run has a lesson and whether it helps: effect, life, trials, groups, and what to look at next."""
    import json

    from tokenprior.store import open_store
    from tokenprior.store.life import life_of

    with open_store(existing(store)) as opened:
        found = life_of(opened, opened.find_run(run).id, identity)
    print(json.dumps(found, indent=1) if as_json else "\n".join(_lines(found, naming(store))))


def _lines(found: dict[str, Any], naming: str) -> list[str]:
    import shlex

    run, every = found["run"], f"show {found['run']} groups{naming}"
    life = [line for event in found["life"] for line in _event(event)]
    groups = [
        f"  step {one['step']}  {one['task']}: {' '.join(map(str, one['rewards'].values()))}" for one in found["groups"]
    ]
    lessons = [
        f"  step {one['step']}  {', '.join(one['groups'])}: {lesson}"
        for one in found["contrasts"]
        for lesson in one["lessons"]
    ]
    lines = [f"[{found['id']}] {found['line']}", *_standing(found), *_origins(found), "", "Life:"]
    lines += _cut(life, MOST_OF_A_LIFE, "lines", f"why {run} {found['id']} --json{naming}")
    lines += ["", "The groups it came from, with the rewards of their attempts:"]
    lines += _cut(groups or ["  none are known"], MOST, "groups", every)
    lines += ["", "What was learned from these groups (it rests on some of that, or all):"]
    lines += _cut(lessons or ["  nothing is known"], MOST, "lessons", every)
    if found["look"]:
        lines += ["", "Look next at:"]
    for one in found["look"][:MOST_TO_LOOK_AT]:
        lines.append(f"  tokenprior show {run} {shlex.quote(one['attempt'])} --step {one['step']}{naming}")
    return lines


def _standing(found: dict[str, Any]) -> list[str]:
    """Where the lesson stands today, and what it does."""
    from tokenprior.experience import Effect

    used, learning = found["used"], found["learning"]
    if used is None and learning is None:
        stands = "It is gone."
    elif used is None:
        stands = "It is not used; learning goes on with it."
    elif learning is None:
        stands = "It is used; learning goes on without it."
    elif used == learning:
        stands = "It is used, and learning goes on with it."
    else:
        other = Effect(**found["learning_effect"]) if found["learning_effect"] else "not measured"
        stands = f"It is used; learning goes on with other words (effect {other}): {learning}"
    if found["effect"] is None:
        at_the_gate = [e["what"] for e in found["life"] if e["kind"] == "trial" and e["candidate"] == "with it"]
        return [stands, "effect not measured", *(f"the gate on a library with it: {what}" for what in at_the_gate[-1:])]
    effect = Effect(**found["effect"])
    return [
        stands,
        f"effect {effect}, from {effect.rollouts} scored attempts with it or without it",
        "in-sample: these are practice tasks, of which lessons are drawn; held-out tasks are for `tokenprior compare`",
    ]


def _origins(found: dict[str, Any]) -> list[str]:
    """What it was in other libraries, before they were joined."""
    from tokenprior.experience import Provenance

    origins = Provenance.from_json(found["provenance"]).origins if found["provenance"] else ()
    return [f"joined from {origin}" for origin in origins]


def _event(event: dict[str, Any]) -> list[str]:
    import time

    at = "start " if event["step"] < 0 else f"step {event['step']}"
    match event["kind"]:
        case "done":
            what = f"{event['what']}: {event['reason'] or 'no reason given'}"
        case "refused":
            what = f"{event['what']} was refused: {event['reason']}"
        case "trial":
            how = {"unchanged": "with it unchanged"}.get(event["candidate"], event["candidate"])
            what = f"tried at the gate {how}: {event['what']}"
        case _:
            what = event["what"]
    if "at" in event:
        what = f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(event['at']))}  {what}"
    words = [f"          - {event['before']}"] if event.get("before") else []
    words += [f"          + {event[key]}" for key in ("after", "proposed") if event.get(key)]
    return [f"  {at}  {what}", *words]


def _cut(lines: list[str], most: int, what: str, where: str) -> list[str]:
    """The first lines, and how many more there are."""
    return (
        lines if len(lines) <= most else [*lines[:most], f"  ... {len(lines) - most} more {what}: tokenprior {where}"]
    )

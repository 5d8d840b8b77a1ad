"""Life: what the steps of a run left behind about one lesson, put together.

An Add does not name the id that it gave: the ids of a step's Adds are the last ones before the `next_number` of the
library after it, in their order. The words between two operations of one step are worked out as `Library.apply` did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenprior.errors import NotFound
from tokenprior.experience import Effect, parse_id
from tokenprior.library import Library
from tokenprior.store import schema

if TYPE_CHECKING:
    from tokenprior.store.open import Store

MOST_NAMED = 24  # ids in an error message

Row = dict[str, Any]
Words = dict[str, tuple[str, str]]  # by id, name and text
Holder = tuple[int, Library]  # a library and the step that left it behind


def life_of(store: Store, run: str, text: str) -> Row:
    """All that a run knows of a lesson as a JSON value, see `docs/formats.md`. The lesson may be gone by now.

    Args:
        text: its id, as a person writes it.

    Raises:
        NotFound: the run never had it; names the ids that there are.
    """
    identity = parse_id(text) or text
    start = store.find_run(run).start
    steps = store.rows("steps", run, without=("observations",))
    trials, edits, pins = store.rows("trials", run), store.rows("edits", run), store.rows("pins", run)
    operations = with_targets(store.rows("operations", run), steps)
    used = store.library(run)
    learning = Library.from_json(steps[-1]["library"]) if steps else used
    holders = [
        (-1, start),
        *_holders(steps, trials),
        *((row["step"], Library.from_json(row["edited"])) for row in edits),
    ]
    holding = [library for _, library in (*holders, (0, used), (0, learning)) if identity in library]
    added = {i for row in operations if row["outcome"] == "done" for i in row["ids"]}
    if not holding and identity not in added:
        there = {e.id for library in (used, learning) for e in library}
        raise _unknown(run, identity, there, {e.id for _, library in holders for e in library} | added)
    # The words that are used come first, then those that learning has; of what is gone, those that were used last.
    leading = [library for library in (used, learning) if identity in library]
    taken_out = next((b for row in _edits_behind(edits, used.version) if (b := _taken_out(row).get(identity))), None)
    same = [library for library in holding if library[identity].line == taken_out] if not leading else []
    now = next((library[identity] for library in (*leading, *same[::-1], *holding[::-1])), None)
    effects = effects_of(steps)
    effect = effects.get((identity, now.line)) or now.effect if now else None
    other = learning[identity].line if identity in learning else None
    other_effect = effects.get((identity, other)) if now and other and other != now.line else None
    shipped = words_of(steps[-1]["shipped"]) if steps else words_of(start.to_json())
    versions = {library.version: words_of(library.to_json()) for _, library in holders} | {None: shipped}
    life = sorted(
        [*_life(identity, start, steps, operations, trials), *_by_hand(identity, edits, pins, versions)],
        key=lambda event: event["step"],
    )
    groups, contrasts = _evidence(store, run, _origins(identity, holders, operations))
    return {
        "run": run,
        "id": identity,
        "line": now.line if now else next((e["before"] for e in reversed(life) if e.get("before")), ""),
        "used": used[identity].line if identity in used else None,
        "learning": learning[identity].line if identity in learning else None,
        "effect": asdict(effect) if effect else None,
        "learning_effect": asdict(other_effect) if other_effect else None,
        "provenance": now.provenance.to_json() if now else None,
        "life": life,
        "groups": groups,
        "contrasts": contrasts,
        "look": _to_look_at(groups),
    }


def gone_of(store: Store, run: str) -> list[Row]:
    """The lessons that a run had once, and that are neither used nor learned on from: `id`, `line`, the `step` in which
    each went, `why`, and `at`, when, if a person took it out; the last to go first."""
    steps = store.rows("steps", run, without=("observations", "shipped", "report"))
    trials = store.rows("trials", run, without=("candidate",))
    operations = with_targets(store.rows("operations", run), steps)
    gone: dict[str, Row] = {}
    library = words_of(store.find_run(run).start.to_json())
    for step in steps:
        ends = words_of(step["library"])
        words, known, why = dict(library), dict(library), {}
        for row in (row for row in operations if row["step"] == step["step"] and row["outcome"] == "done"):
            carry_out(row, words)
            known |= words
            if row["operation"]["op"] == "Delete":
                why[row["ids"][0]] = f"deleted: {row['reason'] or 'no reason given'}"
            elif row["operation"]["op"] == "Merge":
                why |= dict.fromkeys(
                    row["ids"][1:], f"merged into {row['ids'][0]}: {row['reason'] or 'no reason given'}"
                )
        refused = next(
            (row["figures"]["sentence"] for row in trials if row["step"] == step["step"] and row["sequence"] == 0),
            "it was not taken over",
        )
        for identity in known.keys() - ends.keys():
            reason = why.get(identity) if identity not in words else None
            row = {"id": identity, "line": line_of(known[identity]), "step": step["step"]}
            gone[identity] = row | {"why": reason or f"dropped at the gate: {refused}", "at": None}
        library = ends
    used = store.library(run)
    for edit in reversed(_edits_behind(store.rows("edits", run), used.version)):
        for identity, line in _taken_out(edit).items():
            by_hand = f"taken out by hand by {edit['author']}: {edit['reason']}"
            row = {"id": identity, "line": line, "step": edit["step"], "why": by_hand}
            gone[identity] = row | {"at": edit["edited_at"]}
    there = {*library, *words_of(used.to_json())}
    return sorted((row for i, row in gone.items() if i not in there), key=lambda row: (-row["step"], row["id"]))


def _edits_behind(edits: Sequence[Row], version: str) -> list[Row]:
    """The edits that made a version, the last first."""
    behind: list[Row] = []
    for row in reversed(edits):
        if row["edited_version"] == version:
            behind.append(row)
            version = row["before_version"]
    return behind


def _taken_out(edit: Row) -> dict[str, str]:
    """The lessons that an edit took out, each with its words."""
    there = words_of(edit["edited"])
    return {i: line for one in edit["operations"] for i, line in one["before"].items() if i not in there}


def effects_of(steps: Sequence[Row]) -> dict[tuple[str, str], Effect]:
    """What was measured last of each lesson that a run ever had, by id and line: other words have another effect.

    What ships does not hear of what is measured after it shipped, and what is deleted takes its effect along.
    """
    known: dict[tuple[str, str], Effect] = {}
    library = Library()
    for step in steps:
        for identity, figures in step["report"].get("effects", {}).items():
            if identity in library:  # measured of the words that the step began with
                known[identity, library[identity].line] = Effect(**figures)
        library = Library.from_json(step["library"])
        known |= {(e.id, e.line): e.effect for e in library if e.effect}
    return known


def _unknown(run: str, identity: str, there: set[str], every: set[str]) -> NotFound:
    def listed(ids: set[str]) -> str:
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        return ", ".join(sorted(ids, key=lambda one: int(one[1:]))[:MOST_NAMED]) + more

    gone = f", and gone: {listed(every - there)}" if every - there else ""
    return NotFound(f"run {run} has no lesson {identity!r}; there are: {listed(there) or 'none'}{gone}")


def with_targets(operations: Sequence[Row], steps: Sequence[Row]) -> list[Row]:
    """The operations, each with the ids that it is about."""
    made: list[Row] = []
    for step in steps:
        here = [row for row in operations if row["step"] == step["step"]]
        adds = sum(row["operation"]["op"] == "Add" and row["outcome"] == "done" for row in here)
        number = step["library"]["next_number"] - adds
        for row in here:
            operation = row["operation"]
            ids = [operation["id"]] if "id" in operation else list(operation.get("ids", ()))
            if operation["op"] == "Add" and row["outcome"] == "done":
                ids = [f"G{number}"]
                number += 1
            made.append(row | {"ids": ids})
    return made


def _holders(steps: Sequence[Row], trials: Sequence[Row]) -> list[Holder]:
    """All libraries of a run with their steps."""
    holders: list[Holder] = []
    for step in steps:
        at = step["step"]
        holders += [(at, Library.from_json(row["candidate"])) for row in trials if row["step"] == at]
        holders += [(at, Library.from_json(step[column])) for column in ("shipped", "library")]
    return holders


def words_of(library: Mapping[str, Any]) -> Words:
    """The names and texts of a library's JSON, by id."""
    return {e["id"]: (e.get("name", ""), e["text"]) for e in library["experiences"]}


def line_of(words: tuple[str, str] | None) -> str | None:
    """A name and a text as they stand in a prompt."""
    return ": ".join(filter(None, words)) if words else None


def _life(
    identity: str, start: Library, steps: Sequence[Row], operations: Sequence[Row], trials: Sequence[Row]
) -> Iterator[Row]:
    """What became of a lesson, one event after another."""
    library = shipped = {e.id: (e.name, e.text) for e in start}
    if identity in start:
        yield {"step": -1, "kind": "start", "what": "the run began with it", "after": line_of(library.get(identity))}
    for step in steps:
        ends, ships = words_of(step["library"]), words_of(step["shipped"])
        words = dict(library)
        for row in (row for row in operations if row["step"] == step["step"]):
            if identity in row["ids"]:
                yield _operation(identity, row, words)
            carry_out(row, words)
        for row in (row for row in trials if row["step"] == step["step"]):
            tried = words_of(row["candidate"]).get(identity)
            if tried is not None or identity in shipped:
                how = "without it" if tried is None else "with it" if tried != shipped.get(identity) else "unchanged"
                event = {"step": step["step"], "kind": "trial", "what": row["figures"]["sentence"], "candidate": how}
                yield event | {"decision": row["figures"]["decision"]}
        if words.get(identity) != ends.get(identity):
            went_on = "without it" if identity not in ends else f"with: {line_of(ends[identity])}"
            yield {"step": step["step"], "kind": "gate", "what": f"not taken over, learning goes on {went_on}"}
        if shipped.get(identity) != ships.get(identity):
            what = "no longer used from here on" if identity not in ships else "used with these words from here on"
            yield {"step": step["step"], "kind": "ships", "what": what}
        library, shipped = ends, ships


def _by_hand(
    identity: str, edits: Sequence[Row], pins: Sequence[Row], versions: Mapping[str | None, Words]
) -> Iterator[Row]:
    """What people did with a lesson, after the step that was the last one then; and what they took back of it."""
    earliest = min((row["edited_at"] for row in edits), default=0.0)
    happened = [(row["edited_at"], 0, row) for row in edits]
    # Every edit is pinned too, in the same moment.
    chosen = [pin for pin in pins if pin["pinned_at"] >= earliest and not pin["reason"].startswith("edited by ")]
    happened += [(pin["pinned_at"], 1, pin) for pin in chosen]
    step, words = -1, versions[None].get(identity)
    for at, kind, row in sorted(happened, key=lambda one: one[:2]):
        if kind == 0:
            step = row["step"]
            words = words_of(row["edited"]).get(identity)
            yield from _edited(identity, row)
            continue
        after = versions.get(row["version"], {}).get(identity)
        if edits and after != words:
            what = f"taken back by hand: {row['reason'] or 'no reason given'}"
            event = {"step": step, "kind": "edit", "at": at, "what": what}
            yield event | {"before": line_of(words), "after": line_of(after)}
        words = after


def _edited(identity: str, row: Row) -> Iterator[Row]:
    """What an edit did with a lesson."""
    said = {"Add": "added", "Modify": "reworded", "Merge": "merged", "Delete": "deleted", "Keep": "kept"}
    for one in row["operations"]:
        ids = one.get("ids") or [one["id"]]
        if identity in ids:
            what = said[one["op"]] + (f" with {', '.join(i for i in ids if i != identity)}" if len(ids) > 1 else "")
            event = {
                "step": row["step"],
                "kind": "edit",
                "at": row["edited_at"],
                "what": f"{what} by hand, by {row['author']}: {row['reason']}",
            }
            after = words_of(row["edited"]).get(identity)
            yield event | {"before": one["before"].get(identity), "after": line_of(after)}


def _operation(identity: str, row: Row, words: Words) -> Row:
    """The event of one operation."""
    kind, ids, done = row["operation"]["op"], row["ids"], row["outcome"] == "done"
    event = {"step": row["step"], "kind": row["outcome"], "what": kind, "reason": row["reason"]}
    before = line_of(words.get(identity))
    if kind == "Merge":
        event["what"] = f"Merge of {', '.join(ids)}" + (f", it went into {ids[0]}" if identity != ids[0] else "")
    if kind in ("Add", "Modify") or (kind == "Merge" and identity == ids[0]):
        after = dict(words)
        carry_out(row | {"outcome": "done"}, after)
        event |= {"before": before, "after" if done else "proposed": line_of(after.get(identity))}
    elif kind in ("Delete", "Merge") and done:
        event["before"] = before
    return event


def carry_out(row: Row, words: Words) -> None:
    """Change the words as `Library.apply` did."""
    operation, ids = row["operation"], row["ids"]
    if row["outcome"] != "done" or operation["op"] == "Keep":
        return
    if operation["op"] != "Delete":
        old, _ = words.get(ids[0], ("", ""))
        words[ids[0]] = (operation["name"] or old, operation["text"])
    for gone in ids if operation["op"] == "Delete" else ids[1:]:
        words.pop(gone, None)


def _origins(identity: str, holders: Sequence[Holder], operations: Sequence[Row]) -> dict[int, set[str]]:
    """By step, the tasks whose groups a lesson was drawn from, or was found again in."""
    resting = {
        row["step"]
        for row in operations
        if row["ids"][:1] == [identity] and row["outcome"] == "done" and row["operation"].get("lessons")
    }
    origins: dict[int, set[str]] = {}
    for step in sorted(resting):
        known = [(at, set(library[identity].provenance.groups)) for at, library in holders if identity in library]
        before = set().union(*(groups for at, groups in known if at < step))
        after = set().union(*(groups for at, groups in known if at == step))
        # Found again in groups that it came from before, it has no new ones: then all are looked up.
        origins[step] = (after - before) or after
    return origins


def _evidence(store: Store, run: str, origins: Mapping[int, set[str]]) -> tuple[list[Row], list[Row]]:
    """The groups behind a lesson with their rewards, and what was learned from them."""
    contrasts: list[Row] = []
    for row in store.rows("advantages", run, schema.advantages.c.step.in_(sorted(origins))):
        advantage = row["advantage"]
        if origins.get(row["step"], set()) & set(advantage["groups"]):
            lessons = [line_of((name, text)) for name, text in advantage["lessons"]]
            contrasts.append({"step": row["step"], "groups": advantage["groups"], "lessons": lessons})
    columns = schema.rollouts.c
    attempts: dict[tuple[int, str], dict[int, Any]] = {
        (one["step"], task): {} for one in contrasts for task in one["groups"]
    }
    here = (columns.phase == "rollout", columns.step.in_(sorted(origins)))
    for row in store.rows("rollouts", run, *here, without=("rollout", "reward")):
        if (group := attempts.get((row["step"], row["task"]))) is not None:
            value, trouble = row["reward_value"], row["trouble"] or "unscored"
            group[row["attempt"]] = trouble.split(":", 1)[0] if value is None else value
    groups = [{"step": step, "task": task, "rewards": marks} for (step, task), marks in attempts.items()]
    return groups, contrasts


def _to_look_at(groups: Sequence[Row]) -> list[Row]:
    """The best and the worst attempt of each group, those first whose attempts lie furthest apart."""
    wide: list[tuple[float, list[Row]]] = []
    for group in groups:
        scored = [(reward, index) for index, reward in group["rewards"].items() if not isinstance(reward, str)]
        if scored:
            best, worst = max(scored, key=lambda one: one[0]), min(scored, key=lambda one: one[0])
            ends = [{"step": group["step"], "attempt": f"{group['task']}#{i}"} for _, i in dict.fromkeys([best, worst])]
            wide.append((best[0] - worst[0], ends))
    return [one for _, ends in sorted(wide, key=lambda one: -one[0]) for one in ends]

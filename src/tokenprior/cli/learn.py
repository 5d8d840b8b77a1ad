"""tokenprior learn"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprior.cli.setting import Set, configured

if TYPE_CHECKING:
    from tokenprior.learn import LearnResult


def learn(
    config: Annotated[Path, typer.Argument(help="A YAML config; `tokenprior init` writes one.")],
    start: Annotated[Path | None, typer.Option(help="A library to begin with (JSON, or the reference's YAML).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it may take at most, and stop.")] = False,
    changes: Set = None,
) -> None:
    """Learn an experience library from groups of attempts. The same command goes on where it stopped."""
    import asyncio

    from tokenprior.cli.live import Live, money, tokens
    from tokenprior.cli.show import naming
    from tokenprior.exports import import_library
    from tokenprior.session import read_tasks, session

    loaded = configured(config, changes)
    begin = import_library(start) if start else None
    if dry_run:
        from tokenprior.forecast import forecast
        from tokenprior.learn import require_tasks

        split = read_tasks(loaded)
        require_tasks(split.practice, split.gate, loaded.learn.resolved())
        most = forecast(loaded, split.practice, split.gate)
        print(
            f"{len(split.practice)} practice and {len(split.gate)} gate tasks: {most.rollouts} rollouts, at most "
            f"{most.gate_rollouts} more at the gate, and at most {most.learning_calls} learning calls"
        )
        print(f"at most {tokens(most.usage)}, {money(most.usage)}; nothing was called")
        return

    async def run() -> tuple[str, LearnResult]:
        with Live() as live:
            async with session(loaded, on_progress=live.progress, on_pull=live.pulled) as opened:
                return opened.run_of(begin), await opened.learn(start=begin)

    name, result = asyncio.run(run())
    report(name, result, gated=loaded.learn.resolved().gate != "none")
    stored = naming(loaded.store)
    print(f"look: tokenprior show {name} operations{stored}   (or library, groups, TASK#INDEX)")
    if start:
        print(f"next: tokenprior export {name} --form json --to learned.json{stored}")
        print(f"      tokenprior compare {config} --arm learned=learned.json")
    elif len(result.library) or not len(result.learning):
        print(f"next: tokenprior compare {config}   (is it worth anything on held-out tasks?)")
    else:
        print(
            f"next: tokenprior compare {config} --arm waiting={name}:{result.learning.version}   (what do they bring?)"
        )
    if result.stopped:
        print(f"Stopped: {result.stopped}. The library is that of the last finished step; raise the budget to go on.")
        raise typer.Exit(3)


def report(run: str, result: LearnResult, *, gated: bool) -> None:
    """What was learned, what was measured, and what ships, in plain lines."""
    from tokenprior.cli.show import effect_words
    from tokenprior.text import many

    for step in result.steps:
        _step(step)
    print()
    for experience in result.library:
        # What ships does not hear of what is measured after it shipped.
        same = [e.effect for e in result.learning if (e.id, e.line) == (experience.id, experience.line)]
        effect = next(iter(same), None) or experience.effect
        print(
            f"[{experience.id}] {experience.line}   (from {many(experience.support, 'group')}; {effect_words(effect)})"
        )
    tried = any(step.get("trials") for step in result.steps)
    if not len(result.library) and not len(result.learning) and not tried:
        print("Nothing was learned: the library is empty.")
    elif gated:
        print("\n".join(shipping(result)))
    else:
        print("No gate: nothing was proven.")
    print(f"\nrun {run}, library {result.library.version}")


def _step(step: dict[str, Any]) -> None:
    from tokenprior.experience import Effect
    from tokenprior.text import many

    groups = ", ".join(f"{count} {kind}" for kind, count in step["groups"].items())
    mean = "-" if step["mean"] is None else f"{step['mean']:.3f}"
    cut_off = f", {step['cut_off']} cut off" if step.get("cut_off") else ""
    print(
        f"step {step['step']}: mean reward {mean}; {many(step['scored'], 'attempt')} scored"
        f" ({step['unscored']} unscored, {sum(step['failed'].values())} failed{cut_off}); groups: {groups};"
        f" {many(step['lessons'], 'lesson')} -> {many(step['experiences'], 'experience')}"
    )
    if "adaptive" in step:
        print(f"    adaptive: {adaptive_words(step['adaptive'])}")
    for title, counts in (("refused", step["refused"]), ("dropped", step["drops"])):
        for reason, count in counts.items():
            print(f"    {title} {count}: {reason}")
    # A step that was taken before there was a gate has neither.
    for identity, figures in step.get("effects", {}).items():
        effect = Effect(**figures)
        if effect.hurts:
            print(f"    {identity} hurts and was deleted: effect {effect}")
        elif effect.low > 0:
            print(f"    {identity} helps: effect {effect}")
    for trial in step.get("trials", ()):
        print(f"    gate: {trial['sentence']}")


def adaptive_words(figures: dict[str, Any]) -> str:
    """What a step left out and added, as its report has it."""
    from tokenprior.text import many

    resting = " and ".join(f"{count} {kind}" for kind, count in figures["resting"].items())
    tasks = many(sum(figures["resting"].values()), "task")
    return (
        f"{tasks} left to rest{f' ({resting})' if resting else ''}; {many(figures['spared'], 'attempt')} spared, "
        + (f"{figures['added']} added")
    )


def shipping(result: LearnResult) -> list[str]:
    """What ships and on what evidence, and what does not yet."""
    library, learning = result.library, result.learning
    trials = [trial for step in result.steps for trial in step.get("trials", ())]
    shipped = next((t for t in reversed(trials) if t["decision"] == "ships"), None)
    what = f"{_lessons(len(library))} ({library.version})"
    if shipped:
        gain = shipped["gain"]
        interval = "" if gain["low"] is None else f" [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        how = "proven on the gate tasks" if shipped["level"] else "no worse on the gate tasks, which is no proof"
        lines = [
            f"Ships: {what}, {how}: {gain['mean']:+.3f}{interval} over {shipped['against']}, which shipped before."
        ]
        lines.append(
            "It was chosen by that figure, which therefore flatters it; `tokenprior compare` gives the one on held-out "
            "tasks."
        )
    else:
        lines = [f"Nothing was proven: what shipped before still ships, {what}."]
    waiting = [learning[i] for part in library.changes(learning) for i in part if i in learning]
    if waiting:
        wait = "1 lesson waits" if len(waiting) == 1 else f"{len(waiting)} lessons wait"
        last = next((t for t in reversed(trials) if t["candidate"] == learning.version), None)
        more = f" (about {last['needed']} gate tasks would prove a gain as large)" if last and last["needed"] else ""
        lines.append(f"{wait} for more evidence{more}:")
        lines += [f"    [{e.id}] {e.line}" + (f"   (effect {e.effect})" if e.effect else "") for e in waiting]
    kept = [e.id for e in library if e.effect and e.effect.hurts and e.id not in learning]
    if kept:
        lines.append(
            f"Note: {', '.join(kept)} still ships, though it was measured to hurt, for no library without it was "
            "proven. `tokenprior pin` chooses another version."
        )
    return lines


def _lessons(count: int) -> str:
    return "no lessons" if not count else f"{count} lesson{'' if count == 1 else 's'}"

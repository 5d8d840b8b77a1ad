"""Tune: measure how the embedded model is best served on this machine.

What is measured is what a run does most: attempts of G = 2 at short questions behind one library of lessons, each 48
tokens long whatever the model would say. One setting is changed at a time: slots, then threads, then the batch. A
setting has to be faster by more than the noise of such a measurement to replace the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenprior.models.base import CallKey, Request
from tokenprior.models.embedded import EmbeddedServer
from tokenprior.models.embedded_server import usable_cores
from tokenprior.models.forward import ForwardModel
from tokenprior.models.slots import PinnedSlots, new_folder
from tokenprior.models.tuning import Tuning
from tokenprior.rollout import Usage

ATTEMPTS = 24
TOKENS = 48
BETTER = 1.03  # two measurements of one setting differ by about 2%
_LESSONS = (
    ("Units", "When an amount has a unit, carry the unit through every step and state it with the result."),
    ("Order", "When several changes are told, apply them one after another in the order of the story."),
    ("Last question", "When a story ends with a question, answer that question and not an earlier one."),
    ("Shares", "When a part is given as a share, find the whole that it is a share of before you multiply."),
    ("Twice", "When something is counted by two people, check whether the same thing was counted twice."),
    ("Check", "When a result looks too large, put it back into the story and see whether it can be true."),
    ("Names", "When two people have similar names, keep a line of figures for each of them."),
    ("Left over", "When things are handed out, count what is left over before the next step."),
    ("Time", "When a story covers days, write down how many days it covers before you add anything."),
    ("Round", "When money is split, keep the cents until the last step and round only there."),
    ("Each", "When the word each stands in the story, multiply before you add."),
    ("Form", "When the answer is a number, write the number alone on the last line."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one setting gave.

    Attributes:
        attempts_per_minute: attempts of `TOKENS` tokens.
        usage: of all attempts, with the prompt tokens that came from a cache.
    """

    tuning: Tuning
    attempts_per_minute: float
    usage: Usage


async def tune(path: Path, *, attempts: int = ATTEMPTS, context: int = 4_096) -> AsyncIterator[Measured]:
    """Measure one setting after another. Each is yielded as it is known; `best` chooses among them.

    Args:
        path: a GGUF file.
        attempts: of each setting; at least 8 for a figure that means something.
        context: tokens of each slot.

    Raises:
        EmbeddedModelError, MissingExtra: the model cannot be served.
        CallFailed: it does not answer.
    """
    made: list[Measured] = []
    for change in _changes():
        start = best(made).tuning if made else Tuning()
        tuning = replace(start, **change)
        if all(one.tuning != tuning for one in made):
            made.append(await measure(path, tuning, attempts=attempts, context=context))
            yield made[-1]


def best(made: list[Measured]) -> Measured:
    """The fastest, where an earlier one is preferred to a later one that is faster by no more than noise."""
    chosen = made[0]
    for one in made[1:]:
        if one.attempts_per_minute > BETTER * chosen.attempts_per_minute:
            chosen = one
    return chosen


async def measure(path: Path, tuning: Tuning, *, attempts: int = ATTEMPTS, context: int = 4_096) -> Measured:
    """How fast attempts are made with one setting. The model is loaded before the clock runs; the prior is not."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(new_folder())
        server = await stack.enter_async_context(
            EmbeddedServer(
                path,
                slots=tuning.slots,
                context_per_slot=context,
                threads=tuning.threads,
                batch=tuning.batch,
                slot_folder=folder,
            )
        )
        pinned = PinnedSlots(server.ensure, count=tuning.slots, folder=Path(folder))
        await stack.enter_async_context(pinned)
        model = ForwardModel(server.ensure, name="embedded", place=pinned.place)
        stack.push_async_callback(model.aclose)
        room = asyncio.Semaphore(tuning.slots)

        async def one(number: int) -> Usage:
            async with room:
                key = CallKey(phase="rollout", task=f"{number // 2}", rollout=number % 2)
                return (
                    await model.answer(Request(key=key, messages=(), timeout_s=600.0, body=attempt_body(number)))
                ).usage

        started = time.monotonic()
        usage = Usage()
        for used in await asyncio.gather(*(one(number) for number in range(attempts))):
            usage += used
        minutes = (time.monotonic() - started) / 60
    return Measured(tuning=tuning, attempts_per_minute=attempts / minutes, usage=usage)


def _changes() -> Iterator[dict[str, Any]]:
    cores = usable_cores()
    yield {"slots": 4}
    yield from ({"slots": slots} for slots in (2, 8, 1))
    if cores is None or cores > 2:
        import os

        half = max(1, (cores or os.cpu_count() or 2) // 2)
        yield {"threads": half}
    yield from ({"batch": batch} for batch in (128, 1024))


def attempt_body(number: int) -> dict[str, Any]:
    """An attempt: two of them share a question, all of them the lessons."""
    lessons = "\n".join(f"[G{n}] {name}: {text}" for n, (name, text) in enumerate(_LESSONS))
    task = number // 2
    question = (
        f"Mara has {3 * task + 7} boxes with {task + 4} apples each and gives {2 * task + 5} apples to each of her "
        f"{task % 5 + 2} neighbours. How many apples does she have left?"
    )
    return {
        "model": "embedded",
        "messages": [
            {"role": "system", "content": f"Solve the problem step by step.\n\nLessons:\n{lessons}"},
            {"role": "user", "content": question},
        ],
        "max_tokens": TOKENS,
        "temperature": 0.7,
        "seed": number,
        "ignore_eos": True,
    }

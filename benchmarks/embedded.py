"""Embedded: attempts a minute on the embedded model, against a plain client that asks one after another.

    python benchmarks/embedded.py                       (about four minutes on two cores, with nothing beside it)
    python benchmarks/embedded.py --attempts 48 --slots 2

Every line makes the same attempts, each of `TOKENS` tokens whatever the model would say, on a server of its own: two at
each of some questions, behind one library of lessons, see `tokenprior.models.tune`. "plain client": the official OpenAI
client, one call after another, on one slot. "side by side": so many slots, as llama.cpp serves them. "shared": the same
with what prompts begin with evaluated once, which is what a run does (`models.slots`). The clock runs from the first
request to the last reply; loading the model is outside of it.

How to read it: "attempts/min" is the speed; "evaluated" the prompt tokens that did not come from a cache.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from tokenprior.models.catalog import find
from tokenprior.models.embedded import EmbeddedServer
from tokenprior.models.pull import default_cache_dir, pull
from tokenprior.models.tune import attempt_body, measure
from tokenprior.models.tuning import Tuning, kept_tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    what: str
    attempts_per_minute: float
    evaluated: int
    prompt: int


async def plain(path: Path, attempts: int, slots: int, what: str) -> Line:
    """The official client against the bare server, as many calls in flight as there are slots."""
    from openai import AsyncOpenAI

    async with EmbeddedServer(path, slots=slots) as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key="none", timeout=600.0, max_retries=0)
        room = asyncio.Semaphore(slots)

        async def one(number: int) -> tuple[int, int]:
            async with room:
                body = attempt_body(number)
                ignore_eos = {"ignore_eos": body.pop("ignore_eos")}
                usage = (await client.chat.completions.create(**body, extra_body=ignore_eos)).usage
                cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
                return usage.prompt_tokens, cached or 0

        started = time.monotonic()
        used = await asyncio.gather(*(one(number) for number in range(attempts)))
        minutes = (time.monotonic() - started) / 60
        await client.close()
    prompt, cached = (sum(column) for column in zip(*used, strict=True))
    return Line(what=what, attempts_per_minute=attempts / minutes, evaluated=prompt - cached, prompt=prompt)


async def shared(path: Path, attempts: int, tuning: Tuning) -> Line:
    """What a run does."""
    made = await measure(path, tuning, attempts=attempts)
    usage = made.usage
    return Line(
        what=f"shared: {tuning}",
        attempts_per_minute=made.attempts_per_minute,
        evaluated=usage.input_tokens - usage.cached_tokens,
        prompt=usage.input_tokens,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--attempts", type=int, default=24)
    parser.add_argument("--slots", type=int, help="default: what `tokenprior models tune` found here, else 4")
    options = parser.parse_args()
    model = find(options.model.removeprefix("embedded:"))
    path = pull(model)
    tuning = kept_tuning(model.name, default_cache_dir()) or Tuning()
    if options.slots:
        tuning = Tuning(slots=options.slots, threads=tuning.threads, batch=tuning.batch)
    lines = [
        await plain(path, options.attempts, 1, "plain client, one after another"),
        await plain(path, options.attempts, tuning.slots, f"side by side on {tuning.slots} slots"),
        await shared(path, options.attempts, tuning),
    ]
    print(f"{model.name}, {options.attempts} attempts")
    print("attempts/min   against plain   evaluated / prompt tokens")
    for line in lines:
        ratio = line.attempts_per_minute / lines[0].attempts_per_minute
        print(f"{line.attempts_per_minute:12.1f} {ratio:14.2f}x   {line.evaluated:9,} / {line.prompt:,}   {line.what}")


if __name__ == "__main__":
    asyncio.run(main())

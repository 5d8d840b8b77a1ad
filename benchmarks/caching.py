"""Caching: what one step of learning asks a provider to evaluate, against the call pattern of the reference code.

    python benchmarks/caching.py                                     (100 tasks, G = 5: about 5 minutes)
    python benchmarks/caching.py --tasks 20 --time-scale 0.1         (less than a minute)

An endpoint on loopback models prompt caching as OpenAI documents it (prefixes in blocks of 128 tokens, from 1,024 on,
for 5 minutes after the last use) and, beside it, as DeepSeek and llama.cpp do it (blocks of 64, no minimum). A prefix
can be had once a call that has it was evaluated, not before. Both count every call; the first is what the endpoint
answers in `usage.prompt_tokens_details`. Times are those of `latency.py`.

The clients do the same work: the same tasks and attempts, a library of the same lessons to begin with, and a scripted
learner that finds one lesson in every group; the sets of lessons at the end are compared. "reference" re-creates the
call pattern of github.com/TencentCloudADP/youtu-agent (`utu/practice`, and `training_free_grpo` before it): five
barriers; the library behind the problem in the user message, and so again in every attempt that is summarised, for an
attempt there begins with its prompt; fixed words of its lengths first, in the system message. Nobody's words are in it.
tokenprior runs as a session connects it: "paper" with the paper's settings (each attempt summarised), "compact" with
attempts shown as they are, "unwarmed" the same with `endpoint.warm` off, "pairs" with parts of the library shown in
pairs, as the defaults have it (what they measure may take a lesson out, so its lessons at the end can differ).

How to read it: tokens of one step (the mean over `--steps`); "fresh" are prompt tokens that did not come from the
cache, "ratio" how many times those of a client the first client has; costs are in US dollars at `--prices`, with cached
tokens at a tenth and at half the price of fresh ones. A token is four bytes. Makespans are in the endpoint's time,
unscaled; a wait for a cache to fill is not scaled, so that what it costs is seen at `--time-scale 1` only.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from latency import Profile

INSTRUCTIONS = "You solve problems. Think step by step, and end with: The answer is NUMBER."
# Characters of the fixed words of the reference's prompts; see `utu/prompts/practice/experience.yaml` there.
FIXED = {"summary": 4_100, "critique": 3_400, "group update": 3_900, "batch update": 5_400}
FAMILIES = 12
_NUMBER = re.compile(r"PROBLEM-(\d+)")
_NEW_LESSON = re.compile(r"^(\d+)\. (When .+)$", re.MULTILINE)
_ENTRY = re.compile(r"^\[(G\d+)\]\.? (When .+)$", re.MULTILINE)
Message = Mapping[str, str]


def words(count: int, *seed: object) -> str:
    """Words of about four bytes and a space: text that says nothing, and is the same for the same seed."""
    rng = random.Random(repr(seed))
    return " ".join("".join(rng.choice("bdklmnrst") + rng.choice("aeiou") for _ in range(2)) for _ in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The work. Lengths are in tokens."""

    tasks: int
    group_size: int
    library: int
    question: int
    attempt: int
    steps: int
    concurrency: int

    def question_of(self, number: int) -> str:
        return f"PROBLEM-{number}: {words(self.question * 4 // 5, 'question', number)} How many?"

    def attempt_of(self, number: int, index: int) -> str:
        right = index == 0 or (index > 1 and random.Random(f"{number}/{index}").random() < 0.5)
        answer = number if right else number + 100_000 + index
        return f"{words(self.attempt * 4 // 5, 'attempt', number, index)}. The answer is {answer}."

    def lessons(self) -> list[str]:
        """Those that the library holds to begin with."""
        return [lesson("known", number) for number in range(self.library // 25)]


def lesson(*seed: object) -> str:
    return f"When {words(6, *seed)}, {words(12, *seed, 'then')}."


def found_in(number: int) -> str:
    """The lesson that the group of a task teaches."""
    return lesson("family", number % FAMILIES)


class Cache:
    """Which prefixes of prompts are kept.

    Args:
        minimum: tokens of the shortest prefix that can be had.
        block: tokens by which prefixes grow.
        lifetime_s: since the last use.
    """

    def __init__(self, *, minimum: int, block: int, lifetime_s: float) -> None:
        self._minimum, self._bytes, self._lifetime_s = minimum, 4 * block, lifetime_s
        self._usable: dict[bytes, tuple[float, float]] = {}  # from when, last use

    def cached(self, prompt: bytes, now_s: float) -> int:
        """Tokens of this prompt that can be had now."""
        found = 0
        for end, key in self._prefixes(prompt):
            from_s, used_s = self._usable.get(key, (float("inf"), 0.0))
            if from_s > now_s or now_s - max(used_s, from_s) > self._lifetime_s:
                break
            self._usable[key] = (from_s, now_s)
            found = end // 4
        return found if found >= max(1, self._minimum) else 0

    def evaluated(self, prompt: bytes, at_s: float) -> None:
        """This prompt is evaluated at that time, and can be had from then on."""
        for _, key in self._prefixes(prompt):
            from_s, used_s = self._usable.get(key, (at_s, at_s))
            expired = at_s - max(used_s, from_s) > self._lifetime_s
            self._usable[key] = (at_s if expired else min(from_s, at_s), max(used_s, at_s))

    def _prefixes(self, prompt: bytes) -> Iterable[tuple[int, bytes]]:
        made = hashlib.sha256()
        for end in range(self._bytes, len(prompt) + 1, self._bytes):
            made.update(prompt[end - self._bytes : end])
            yield end, made.digest()


@dataclass(slots=True, kw_only=True)
class Count:
    """Calls of one kind and what they took; `cached` by cache."""

    calls: int = 0
    prompt: int = 0
    output: int = 0
    cached: Counter[str] = field(default_factory=Counter)

    def fresh(self, cache: str) -> int:
        return self.prompt - self.cached[cache]


class Endpoint:
    """The model and its caches, in the running event loop. Use as an async context manager."""

    def __init__(self, setting: Setting, profile: Profile) -> None:
        self.setting, self._profile = setting, profile
        lifetime_s = 300.0 * profile.time_scale
        self._caches = {
            "1,024 and blocks of 128": Cache(minimum=1_024, block=128, lifetime_s=lifetime_s),
            "blocks of 64": Cache(minimum=0, block=64, lifetime_s=lifetime_s),
        }
        self.counts: dict[str, Count] = defaultdict(Count)
        self._asked: Counter[int] = Counter()
        self._bodies: Counter[bytes] = Counter()
        self.url = ""

    async def __aenter__(self) -> Endpoint:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        began_s = time.monotonic()
        messages: list[Message] = (await request.json())["messages"]
        kind, said = self._said(messages)
        prompt = "".join(f"<{message['role']}>\n{message['content']}\n" for message in messages).encode()
        # As many bytes as tokens count, so that the same work has the same sum in both clients.
        tokens, output = len(prompt) // 4, max(1, len(said) // 4)
        cached = {name: cache.cached(prompt, began_s) for name, cache in self._caches.items()}
        shown = next(iter(cached.values()))
        digest = hashlib.sha256(prompt).digest()
        self._bodies[digest] += 1
        rng = random.Random(f"{digest.hex()}/{self._bodies[digest]}")
        profile = self._profile
        first_s = profile.first_token_s * rng.lognormvariate(0.0, profile.first_token_sigma)
        evaluated_s = (first_s + (tokens - shown) / profile.prompt_tokens_per_s) * profile.time_scale
        took_s = evaluated_s + output / profile.output_tokens_per_s * rng.lognormvariate(0.0, 0.5) * profile.time_scale
        for cache in self._caches.values():
            cache.evaluated(prompt, began_s + evaluated_s)
        count = self.counts[kind]
        count.calls += 1
        count.prompt += tokens
        count.output += output
        count.cached.update(cached)
        await asyncio.sleep(began_s + took_s - time.monotonic())
        return web.json_response(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": "world",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": tokens,
                    "completion_tokens": output,
                    "total_tokens": tokens + output,
                    "prompt_tokens_details": {"cached_tokens": shown},
                },
            }
        )

    def _said(self, messages: Sequence[Message]) -> tuple[str, str]:
        """What kind of call it is, and the reply. The two clients' prompts are told apart by their first words."""
        first, last = messages[0]["content"], messages[-1]["content"]
        number = int(found[1]) if (found := _NUMBER.search(last)) else -1
        if first == INSTRUCTIONS or first.startswith(INSTRUCTIONS + "\n"):
            index = self._asked[number] % self.setting.group_size
            self._asked[number] += 1
            return "rollout", self.setting.attempt_of(number, index)
        if first.startswith(("You retell attempts", "Fixed words of the summary")):
            return "summary", words(160, "summary", last[-400:])
        if first.startswith("You study attempts"):
            told = {"difference": words(60, number), "lessons": [{"name": "", "lesson": found_in(number)}]}
            return "contrast", json.dumps(told)
        if first.startswith("Fixed words of the critique"):
            return "critique", f"{words(60, number)}\n<Experiences>\n1. {found_in(number)}\n</Experiences>"
        library, _, new = last.partition("New lessons:" if first.startswith("You keep a short library") else "\nNew:\n")
        held = {text: entry for entry, text in _ENTRY.findall(library)}
        if first.startswith("You keep a short library"):
            return "revise", _revision(held, _NEW_LESSON.findall(new))
        if first.startswith("Fixed words of the group update"):
            return "group update", json.dumps(
                [
                    {"operation": "NONE" if text in held else "ADD", "id": None, "content": text}
                    for _, text in _NEW_LESSON.findall(new)
                ]
            )
        if first.startswith("Fixed words of the batch update"):
            added = dict.fromkeys(re.findall(r'"operation": "ADD",\s+"id": null,\s+"content": "([^"]+)"', last))
            return "batch update", json.dumps([{"operation": "ADD", "id": None, "content": text} for text in added])
        raise web.HTTPBadRequest(text=f"a prompt that is not known: {first[:200]}")


def _revision(held: Mapping[str, str], new: Iterable[tuple[str, str]]) -> str:
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, text in new:
        numbers[text].append(int(number))
    return json.dumps(
        [
            {"op": "Keep", "id": held[text], "lessons": of, "reason": "held"}
            if text in held
            else {"op": "Add", "name": "", "text": text, "lessons": of, "reason": "new"}
            for text, of in numbers.items()
        ]
    )


async def reference(setting: Setting, url: str) -> list[str]:
    """The reference's call pattern: which calls, in which order, and what each of them holds. Returns the lessons."""
    slots = asyncio.Semaphore(setting.concurrency)
    library = {f"G{at}": text for at, text in enumerate(setting.lessons())}

    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def ask(system: str, user: str) -> str:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
            async with slots, session.post(f"{url}/chat/completions", json={"messages": messages}) as reply:
                reply.raise_for_status()
                return str((await reply.json())["choices"][0]["message"]["content"])

        for step in range(setting.steps):
            library = await _reference_step(setting, library, step, ask)
    return list(library.values())


async def _reference_step(
    setting: Setting, library: dict[str, str], step: int, ask: Callable[[str, str], Awaitable[str]]
) -> dict[str, str]:
    listed = "\n".join(f"[{entry}]. {text}" for entry, text in library.items())
    fixed = {kind: f"Fixed words of the {kind}. {words(size // 5, kind)}" for kind, size in FIXED.items()}
    numbers = list(range(setting.tasks))
    random.Random(step).shuffle(numbers)
    prompts = {number: f"Problem:\n{setting.question_of(number)}\n\nLessons:\n{listed}" for number in numbers}
    # The whole batch G times over, so the attempts at one problem are far apart.
    order = [number for _ in range(setting.group_size) for number in numbers]
    outputs = await asyncio.gather(*(ask(INSTRUCTIONS, prompts[number]) for number in order))
    attempts: dict[int, list[str]] = defaultdict(list)
    for number, output in zip(order, outputs, strict=True):
        attempts[number].append(output)

    def summary(number: int, output: str) -> str:
        said = [{"role": "user", "content": prompts[number]}, {"role": "assistant", "content": output}]
        return f"Input:\n{setting.question_of(number)}\n\nAnswer:\n{number}\n\nRemarks:\nnone\n\nAttempt:\n{said}\n"

    pairs = [(number, output) for number in numbers for output in attempts[number]]
    retold = await asyncio.gather(*(ask(fixed["summary"], summary(number, output)) for number, output in pairs))
    summaries: dict[int, list[str]] = defaultdict(list)
    for (number, output), said in zip(pairs, retold, strict=True):
        reward = float(output.endswith(f" {number}."))
        summaries[number].append(f"Attempt {len(summaries[number]) + 1} (reward {reward}):\n{said}")

    def critique(number: int) -> str:
        told = "\n\n".join(summaries[number])
        return f"Input:\n{setting.question_of(number)}\n\nAnswer:\n{number}\n\nAttempts:\n{told}\n"

    critiques = await asyncio.gather(*(ask(fixed["critique"], critique(number)) for number in numbers))
    found = [said.partition("<Experiences>\n")[2].partition("\n</Experiences>")[0] for said in critiques]
    updates = await asyncio.gather(*(ask(fixed["group update"], f"Held:\n{listed}\n\nNew:\n{new}\n") for new in found))
    operations = [operation for said in updates for operation in json.loads(said)]
    held = "\n\n".join(f"Lesson {entry}:\n{text}\nNo operation." for entry, text in library.items())
    proposed = "\n".join(json.dumps(operation, indent=2) for operation in operations)
    plan = json.loads(await ask(fixed["batch update"], f"{held}\n\nOthers:\n{proposed}\n"))
    lessons = [*library.values(), *(one["content"] for one in plan if one["operation"] == "ADD")]
    return {f"G{at}": text for at, text in enumerate(lessons)}


async def ours(setting: Setting, url: str, learning: Mapping[str, Any], *, warm: bool) -> list[str]:
    """tokenprior as a session connects it, with a store on disk. Returns the lessons."""
    from tokenprior.agents.chat import ChatAgent
    from tokenprior.config import LearnConfig
    from tokenprior.endpoint_settings import EndpointSettings
    from tokenprior.experience import Experience
    from tokenprior.learn import learn
    from tokenprior.library import Library
    from tokenprior.models.budget import Budget, Limits
    from tokenprior.models.connect import Connections
    from tokenprior.store import open_store
    from tokenprior.task import Task, TaskSet
    from tokenprior.verifiers import make_verifier

    tasks = TaskSet(
        Task(id=f"p{number}", question=setting.question_of(number), answer=number) for number in range(setting.tasks)
    )
    start = Library(
        experiences=tuple(Experience(id=f"G{at}", name="", text=text) for at, text in enumerate(setting.lessons()))
    )
    config = LearnConfig.model_validate(
        {
            "preset": "paper",
            "epochs": setting.steps,
            "group_size": setting.group_size,
            "learn_from": ["mixed"],
            "library": {"max_experiences": 1_000, "max_tokens": 100_000},
            **learning,
        }
    )
    settings = EndpointSettings(concurrency=setting.concurrency, warm=warm)
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "caching.db") as store:
        record = store.open_run("c-1", name="c", kind="learn", config={})
        connections = Connections(settings, ledger=record, budget=Budget(Limits()), prices={}, policy=settings.policy)
        async with connections:
            model = await connections.model(f"{url}#world")
            result = await learn(
                tasks,
                agent=ChatAgent(model=model, instructions=INSTRUCTIONS, max_tokens=2_000),
                verifier=make_verifier({"kind": "number"}),
                model=model,
                record=record,
                config=config,
                start=start,
            )
        record.close("done")
    return [experience.text for experience in result.library]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    name: str
    counts: Mapping[str, Count]
    makespan_s: float
    lessons: frozenset[str]

    def total(self) -> Count:
        whole = Count()
        for count in self.counts.values():
            whole.calls += count.calls
            whole.prompt += count.prompt
            whole.output += count.output
            whole.cached.update(count.cached)
        return whole


async def measured(name: str, setting: Setting, profile: Profile, **options: Any) -> Measured:
    async with Endpoint(setting, profile) as endpoint:
        began_s = time.monotonic()
        run = reference(setting, endpoint.url) if name == "reference" else ours(setting, endpoint.url, **options)
        lessons = await run
        took_s = (time.monotonic() - began_s) / profile.time_scale
    return Measured(name=name, counts=endpoint.counts, makespan_s=took_s, lessons=frozenset(lessons))


CLIENTS: Mapping[str, Mapping[str, Any]] = {
    "reference": {},
    "paper": {"learning": {}, "warm": True},
    "compact": {"learning": {"compact": True}, "warm": True},
    "unwarmed": {"learning": {"compact": True}, "warm": False},
    "pairs": {"learning": {"compact": True, "inclusion_pairs": 1}, "warm": True},
}


def table(done: Sequence[Measured], cache: str, steps: int, prices: tuple[float, float]) -> str:
    """The clients with one kind of cache, a step each."""
    lines = [
        f"{'cache: ' + cache:<32} {'calls':>6} {'prompt':>10} {'cached':>10} {'fresh':>10} {'ratio':>6} {'output':>8} "
        f"{'USD at 1/10':>11} {'at 1/2':>7} {'makespan':>9}"
    ]
    whole = done[0].total()
    for one in done:
        total = one.total()
        fresh, cached = total.fresh(cache), total.cached[cache]
        costs = [
            ((fresh + share * cached) * prices[0] + total.output * prices[1]) / 1e6 / steps for share in (0.1, 0.5)
        ]
        lines.append(
            f"{one.name:<32} {total.calls / steps:>6,.0f} {total.prompt / steps:>10,.0f} {cached / steps:>10,.0f} "
            f"{fresh / steps:>10,.0f} {whole.fresh(cache) / fresh:>6.2f} {total.output / steps:>8,.0f} "
            f"{costs[0]:>11.3f} {costs[1]:>7.3f} {one.makespan_s / steps:>7.1f} s"
        )
    return "\n".join(lines)


def phases(one: Measured, cache: str, steps: int) -> str:
    """One client, a phase each."""
    lines = [f"{one.name:<32} {'calls':>6} {'prompt':>10} {'cached':>10} {'fresh':>10} {'':>6} {'output':>8}"]
    for phase, count in one.counts.items():
        lines.append(
            f"  {phase:<30} {count.calls / steps:>6,.0f} {count.prompt / steps:>10,.0f} "
            f"{count.cached[cache] / steps:>10,.0f} {count.fresh(cache) / steps:>10,.0f} {'':>6} "
            f"{count.output / steps:>8,.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--group-size", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--library", type=int, default=2_000, help="tokens of lessons to begin with")
    parser.add_argument("--question", type=int, default=150, help="tokens of a question")
    parser.add_argument("--attempt", type=int, default=400, help="tokens of an attempt")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--time-scale", type=float, default=0.5, help="of the endpoint; makespans are unscaled again")
    parser.add_argument("--prices", type=float, nargs=2, default=(0.28, 0.42), help="USD for a million tokens in, out")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    asked = parser.parse_args()
    setting = Setting(
        tasks=asked.tasks,
        group_size=asked.group_size,
        library=asked.library,
        question=asked.question,
        attempt=asked.attempt,
        steps=asked.steps,
        concurrency=asked.concurrency,
    )
    print(
        f"{setting.tasks} tasks, G = {setting.group_size}, {setting.library} tokens of library, questions of "
        f"{setting.question}, attempts of {setting.attempt}, {setting.concurrency} calls at once",
        flush=True,
    )
    profile = Profile(time_scale=asked.time_scale)
    done: list[Measured] = []
    for name in asked.clients:
        done.append(asyncio.run(measured(name, setting, profile, **CLIENTS[name])))
        print(f"  {name}: {done[-1].makespan_s * profile.time_scale:.0f} s", flush=True)
    for cache in done[0].total().cached:
        print(f"\n{table(done, cache, setting.steps, tuple(asked.prices))}")
    first = next(iter(done[0].total().cached))
    print(f"\nby phase, cache: {first}")
    for one in done:
        print(phases(one, first, setting.steps))
    new = done[0].lessons - set(setting.lessons())
    print(f"\nlessons at the end: {len(done[0].lessons)}, {len(new)} of them new")
    for one in done[1:]:
        same = "the same" if one.lessons == done[0].lessons else f"{len(one.lessons ^ done[0].lessons)} differ"
        print(f"  {one.name}: {same}")


if __name__ == "__main__":
    main()

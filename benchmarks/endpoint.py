"""Endpoint: a scripted world behind an OpenAI-compatible server on the loopback address, for the null benchmark.

    python benchmarks/endpoint.py --base-rate 0.25 --port 8399        (serves until it is interrupted)

Two kinds of call come in. A *policy* call asks for the code word of one item; it is right with a fixed probability,
drawn afresh at every call, whatever the prompt says. So no prompt can matter: a null task. With `effect` above 0 there
is one sentence that does matter, `RULE`: a prompt that has it is right so much more often. A *learning* call asks for
new instructions, advice, lessons, or a summary; it gets a fresh, sensible, useless text in the form it asks for, and
with `effect` above 0 a share `find_rate` of the texts that can end up in a prompt hold the rule.

`World.reply` is all of it and does no I/O; `Endpoint` is the server around it. Known callers: gepa's default adapter,
dspy's chat and JSON adapters with its GEPA, MIPROv2 and SIMBA, and tokenprior. A prompt that is none of these is
refused, because a silent guess would spoil the measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from aiohttp import web

RULE = "answer in capital letters"
RULE_LESSON = f"When a question names an item, {RULE}."
SEED_INSTRUCTION = "Tell which code word belongs to the item."

Role = Literal["policy", "instruction", "advice", "contrast", "revise", "describe"]

# fmt: off
_WORDS = [
    "AMBER", "BASIL", "COBALT", "DAHLIA", "ERMINE", "FENNEL", "GARNET", "HAZEL", "INDIGO", "JASPER", "KESTREL",
    "LUPIN", "MAGENTA", "NUTMEG", "OPAL", "PEWTER", "QUARTZ", "RUSSET", "SAFFRON", "TOPAZ", "UMBER", "VIOLET",
    "WALNUT", "ZIRCON",
]
# fmt: on
_CONDITIONS = (
    "When a question names an item",
    "When two words seem possible",
    "When the card is hard to recall",
    "When the first guess comes quickly",
    "When the item has been seen before",
    "When no word comes to mind",
)
_ADVICE = (
    "read the whole question twice before settling on a word",
    "trust the word that came to mind first",
    "think of the neighbouring items and what they had in common",
    "weigh each candidate and leave out the least fitting one",
    "write nothing but the word itself",
    "check the number of the item once more at the end",
    "prefer a plain word to a rare one",
    "picture the card and read the word off it",
)
_ITEM = re.compile(r"ITEM-(\d+)")
_OUTPUT_FIELDS = re.compile(r"^Your output fields are:\n(.*?)^All interactions", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\d+\. `(\w+)`", re.MULTILINE)
_JSON_FORM = "Outputs will be a JSON object"
_MODULES = re.compile(r"\[\[ ## module_names ## \]\]\s*(\[.*?\])", re.DOTALL)
_NEW_LESSON = re.compile(r"^(\d+)\. (?:([^:\n]{1,80}): )?(.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^\[(G\d+)\] (?:([^:\n]{1,80}): )?(.+)$", re.MULTILINE)


def item(number: int) -> tuple[str, str]:
    """Question and right answer of one item."""
    return f"ITEM-{number}: which code word is written on the card of this item?", _WORDS[
        (7 * number + 3) % len(_WORDS)
    ]


def has_rule(prompt: str) -> bool:
    """Whether a prompt holds the one sentence that matters (if the world has an effect at all)."""
    return RULE in prompt.casefold()


class World:
    """What the model says. Safe to call from several threads.

    Args:
        base_rate: the probability of a right answer, 0.0 to 1.0.
        effect: what the rule in the prompt adds to it; 0.0 makes a null task.
        find_rate: the share of new instructions, advice and lessons that hold the rule. Unused without an effect.
        seed: of all draws.

    Attributes:
        calls: how many calls of each role were answered.
    """

    def __init__(
        self, base_rate: float = 0.25, effect: float = 0.0, find_rate: float = 0.5, seed: int | str = 0
    ) -> None:
        self.base_rate, self.effect, self.find_rate, self.seed = base_rate, effect, find_rate, seed
        self.calls: Counter[Role] = Counter()
        self._stream = random.Random(f"{seed}")
        self._lock = threading.Lock()

    def accuracy(self, prompt: str) -> float:
        """The true score of a prompt."""
        return min(1.0, self.base_rate + (self.effect if has_rule(prompt) else 0.0))

    def reply(self, messages: Sequence[Mapping[str, Any]], key: str | None = None) -> str:
        """What the model answers.

        Args:
            messages: each with `role` and `content`, as in the chat-completions API.
            key: names the call. With it the draws depend on seed, key and prompt alone, not on which call came first,
                and another prompt gets another draw even under the same key. Without it they come from one stream,
                and with several calls in flight the order of arrival decides.

        Raises:
            ValueError: if the prompt is none that this world knows.
        """
        role, fields = role_of(messages)
        with self._lock:
            self.calls[role] += 1
            drawn = f"{self.seed}/{key}/{_all(messages)}" if key is not None else self._stream.random()
        rng = random.Random(drawn)
        if role == "policy":
            return _in_form(messages, fields or ["answer"], lambda _: self._answer(messages, rng))
        if role == "contrast":
            return self._contrast(messages, rng)
        if role == "revise":
            return _revise(messages)
        if role == "instruction" and not fields:
            return f"Here is the new instruction.\n```\n{self._instruction(messages, rng)}\n```"
        return _in_form(messages, fields, lambda field: self._field(field, messages, rng))

    def _answer(self, messages: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
        right = item(int(_ITEM.findall(_text(messages[-1]))[-1]))[1]
        if rng.random() < self.accuracy(_all(messages[:-1])):
            return right
        return rng.choice([word for word in _WORDS if word != right])

    def _finds(self, rng: random.Random) -> bool:
        return self.effect > 0 and rng.random() < self.find_rate

    def _instruction(self, messages: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
        """A new instruction. One that had the rule keeps it: reflection builds on what is there."""
        kept = self.effect > 0 and has_rule(_all(messages))
        rule = f" {RULE_LESSON}" if self._finds(rng) or kept else ""
        return f"{SEED_INSTRUCTION} {_lesson(rng)}{rule} (Version {rng.randrange(10_000, 100_000)}.)"

    def _field(self, field: str, messages: Sequence[Mapping[str, Any]], rng: random.Random) -> Any:
        if field in ("new_instruction", "proposed_instruction"):
            return self._instruction(messages, rng)
        if field == "module_advice":
            named = _MODULES.findall(_text(messages[-1]))
            advice = RULE_LESSON if self._finds(rng) else _lesson(rng)
            note = f"{advice} (Note {rng.randrange(10_000, 100_000)}.)"
            return dict.fromkeys(json.loads(named[-1]) if named else [], note)
        return "The questions name an item by its number, and the replies are single code words."

    def _contrast(self, messages: Sequence[Mapping[str, Any]], rng: random.Random) -> str:
        known = has_rule(_all(messages))  # "nothing that the lessons above say already"
        lesson = RULE_LESSON if not known and self._finds(rng) else _lesson(rng)
        if _text(messages[0]).startswith("You find the rule behind examples"):
            return lesson
        name = "Capital letters" if lesson == RULE_LESSON else "Choosing a word"
        return json.dumps(
            {
                "difference": "The better attempts went about it with more care.",
                "lessons": [{"name": name, "lesson": lesson}],
            }
        )


def role_of(messages: Sequence[Mapping[str, Any]]) -> tuple[Role, list[str]]:
    """What a call is for, and the output fields that dspy asks for (none elsewhere).

    Raises:
        ValueError: if the prompt is none that is known.
    """
    first, last = _text(messages[0]), _text(messages[-1])
    if listed := _OUTPUT_FIELDS.search(first):
        fields = _FIELD.findall(listed[1])
        if fields == ["answer"]:
            return "policy", fields
        if "module_advice" in fields:
            return "advice", fields
        if fields in (["new_instruction"], ["proposed_instruction"]):
            return "instruction", fields
        if fields in (["observations"], ["summary"], ["program_description"], ["module_description"]):
            return "describe", fields
    elif last.startswith("I provided an assistant with the following instructions"):
        return "instruction", []
    elif first.startswith(("You study attempts of an agent", "You find the rule behind examples")):
        return "contrast", []
    elif first.startswith("You keep a short library of lessons"):
        return "revise", []
    elif first.startswith("You retell attempts of an agent"):
        return "describe", []
    elif last.startswith("ITEM-"):
        return "policy", []
    raise ValueError(f"a prompt that this world does not know: {first[:120]!r} ... {last[:120]!r}")


def _revise(messages: Sequence[Mapping[str, Any]]) -> str:
    """A willing editor: every lesson that the library lacks is added, those that say the same as one."""
    before, _, after = _text(messages[-1]).partition("New lessons:")
    held = {text: entry for entry, _, text in _ENTRY.findall(before)}
    numbers: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for number, name, text in _NEW_LESSON.findall(after.partition(">>>")[0]):
        numbers.setdefault(text, []).append(int(number))
        names.setdefault(text, name)
    operations = [
        {"op": "Keep", "id": held[text], "lessons": of, "reason": "The library says it."}
        if text in held
        else {"op": "Add", "name": names[text], "text": text, "lessons": of, "reason": "The library lacks it."}
        for text, of in numbers.items()
    ]
    return json.dumps(operations)


def _lesson(rng: random.Random) -> str:
    return f"{rng.choice(_CONDITIONS)}, {rng.choice(_ADVICE)}."


def _in_form(messages: Sequence[Mapping[str, Any]], fields: Sequence[str], value: Callable[[str], Any]) -> str:
    """The fields as the adapter wants them: a JSON object, marked sections, or bare text if it named none."""
    values = {field: value(field) for field in fields}
    if _JSON_FORM in _text(messages[0]):
        return json.dumps(values)
    if not _OUTPUT_FIELDS.search(_text(messages[0])):
        return str(next(iter(values.values()), _DESCRIPTION))
    parts = [
        f"[[ ## {field} ## ]]\n{said if isinstance(said, str) else json.dumps(said)}" for field, said in values.items()
    ]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


_DESCRIPTION = "The attempt read the question, thought of a few words, and gave one of them."


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _all(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(_text(message) for message in messages)


class Endpoint:
    """The world as a server on the loopback address, in a thread of its own for as long as the `with` block lasts.

    Args:
        base_rate, effect, find_rate, seed: see `World`.
        latency_s: how long every call takes at least.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        *,
        base_rate: float = 0.25,
        effect: float = 0.0,
        find_rate: float = 0.5,
        seed: int | str = 0,
        latency_s: float = 0.0,
        port: int = 0,
    ) -> None:
        self.world = World(base_rate, effect, find_rate, seed)
        self.latency_s, self.port = latency_s, port
        self.peak = 0  # the most calls in flight at once; says something only with a latency
        self.refused: list[str] = []  # what was said of prompts that the world does not know
        self._flying = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        """The base address, as OpenAI clients want it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> Counter[Role]:
        """How many calls of each role were answered."""
        return self.world.calls

    def __enter__(self) -> Endpoint:
        self._thread.start()
        if not self._ready.wait(timeout=30):
            raise RuntimeError("the endpoint did not start within 30 s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(runner.cleanup())
            self._loop.close()

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self._flying += 1
        self.peak = max(self.peak, self._flying)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            said = self.world.reply(asked["messages"])
        except ValueError as problem:
            self.refused.append(str(problem))
            return web.json_response({"error": {"message": str(problem), "type": "invalid_request_error"}}, status=400)
        finally:
            self._flying -= 1
        tokens_in, tokens_out = sum(len(_text(m)) for m in asked["messages"]) // 4, len(said) // 4
        return web.json_response(
            {
                "id": "scripted",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": asked.get("model", "world"),
                "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": tokens_in,
                    "completion_tokens": tokens_out,
                    "total_tokens": tokens_in + tokens_out,
                },
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-rate", type=float, default=0.25)
    parser.add_argument("--effect", type=float, default=0.0)
    parser.add_argument("--find-rate", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=8399)
    options = vars(parser.parse_args())
    with Endpoint(**options) as endpoint:
        print(f"serving on {endpoint.url}; interrupt to stop", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"calls by role: {dict(endpoint.calls)}")


if __name__ == "__main__":
    main()

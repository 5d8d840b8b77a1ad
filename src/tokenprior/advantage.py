"""Advantage: what one group teaches in words. It takes the place of GRPO's number (r_i - mean) / std."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprior.experience import one_line, words
from tokenprior.operation import Drop, short_name
from tokenprior.quotes import SIZE, Quotes, runs
from tokenprior.reply import CUT, Malformed, parse_items
from tokenprior.rollout import Rollout, Usage
from tokenprior.task import Task
from tokenprior.text import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one group taught: a name of a few words, and one sentence with its condition."""

    name: str
    text: str

    @property
    def line(self) -> str:
        """Name and text in one line."""
        return f"{self.name}: {self.text}" if self.name else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage:
    """The semantic advantage of one group, or of several that were contrasted together.

    Attributes:
        groups: the task's id; several of them for a joint contrast.
        rollouts: the attempts that were shown, each `task_id#index`.
        summaries: one for each of them; empty in the compact way, where an attempt is its own summary.
        lessons: what the group taught; may be none.
        drops: what of the replies could not be used, each with its reason.
        usage: what the learning model's calls for this group took.
    """

    groups: tuple[str, ...]
    rollouts: tuple[str, ...] = ()
    summaries: tuple[str, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    drops: tuple[Drop, ...] = ()
    usage: Usage = field(default_factory=Usage)


_TEXTS = ("lesson", "text", "experience", "content")  # keys under which models write a lesson


def parse_lessons(reply: str, *, limit: int) -> tuple[list[Lesson], list[Drop]]:
    """Read the lessons of a contrast reply. At most `limit` are kept; every part that is not is named.

    Raises:
        Malformed: if the reply holds no list of objects, or none that is a lesson, so that it is worth asking again.
    """
    items = parse_items(reply, wrappers=("lessons", "experiences"), marks=_TEXTS)
    lessons: list[Lesson] = []
    drops: list[Drop] = []
    for item in items:
        made = _lesson(item)
        if isinstance(made, Drop):
            drops.append(made)
        elif len(lessons) == limit:
            drops.append(Drop(what=shorten(made.text), reason=f"more than the {limit} lessons that were asked for"))
        else:
            lessons.append(made)
    if items and not lessons:
        raise Malformed(f"none of the {len(items)} lessons can be used: {drops[0].reason}")
    return lessons, drops


def _lesson(item: Any) -> Lesson | Drop:
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, Mapping):
        return Drop(what=shorten(item), reason="not an object")
    if CUT in item:
        return Drop(what=shorten(item[CUT]), reason="the reply was cut off in the middle of it")
    fields = {str(key).casefold().strip(): value for key, value in item.items()}
    texts = [fields.get(key) for key in _TEXTS]
    text = next((one_line(value) for value in texts if isinstance(value, str) and value.strip()), "")
    if not text:
        return Drop(what=shorten(item), reason="a lesson without a text")
    name = fields.get("name", fields.get("title", ""))
    return Lesson(name=short_name(one_line(name)) if isinstance(name, str) else "", text=text)


_CLAIM = re.compile(
    r"\b(?:answers?|outputs?|results?|replies|reply)\b.{0,40}?\b(?:is|be|are|as)((?: \S+){1,6})"
    r"|\b(?:answer|reply|respond|return|output|say)(?: (?:with|only|just|always|simply))*( \S+(?: \S+)?)"
)


class LeakGuard:
    """Refuses words that give away what practice tasks ask or answer (METHOD: answers do not leak).

    Covered: a verbatim piece of a question of `QUOTE` words or more, and a whole one of `SHORT` or more; an answer
    that is peculiar to its task, wherever it stands; any answer at all, where the text says that the answer *is* it and
    no choice among many is asked. Not covered: paraphrase, a question of one or two words (a lesson may need them), and
    an answer of one digit in passing ("use 2 steps").
    """

    QUOTE = SIZE
    SHORT = 3
    FEW = 4  # so many different answers or fewer: naming one of them is a constant answer, not a category

    def __init__(self, tasks: Sequence[Task]) -> None:
        owners: dict[str, set[str]] = {}
        self._quotes = Quotes(tasks)
        self._short: dict[str, str] = {}
        for task in tasks:
            for answer in task.accepted:
                owners.setdefault(" ".join(words(answer)), set()).add(task.id)
            tokens = words(task.question)
            if self.SHORT <= len(tokens) < self.QUOTE:
                self._short.setdefault(" ".join(tokens), task.id)
        owners.pop("", None)
        repeated = sum(len(of) > 1 for of in owners.values())
        self._categories = len(owners) > self.FEW and repeated > len(owners) / 2
        # Where answers are categories, a lesson has to be able to name one.
        own = {answer for answer, of in owners.items() if len(of) == 1 and _is_telling(answer)}
        self._own = set() if self._categories else own
        few = set(owners) if len(owners) <= self.FEW else set()
        self._stated = few if self._categories or few else set(owners)
        self._sizes = {len(answer.split()) for answer in owners}

    def problem(self, text: str) -> str | None:
        """Why a text may not be kept, or `None`. The reason does not repeat what leaked."""
        tokens = words(text)
        if quoted := self._quotes.source(tokens):
            return f"quotes a training question: task {quoted.id}"
        for run in runs(tokens, range(self.SHORT, self.QUOTE)):
            if task := self._short.get(run):
                return f"quotes a training question: task {task}"
        if any(run in self._own for run in runs(tokens, self._sizes)):
            return "repeats the answer of one training task"
        for claim in _CLAIM.finditer(f" {' '.join(tokens)} "):
            said = [run for run in runs((claim[1] or claim[2]).split(), self._sizes) if run in self._stated]
            # One letter is also a word ("a single letter"): it is an answer where the text writes it large.
            if any(len(a) > 1 or not a.isalpha() or re.search(rf"\b{a.upper()}\b", text) for a in said):
                return "states an answer instead of a way to it"
        return None


def _is_telling(answer: str) -> bool:
    """Whether an answer is so particular that its appearance in a lesson is no accident."""
    digits = sum(char.isdigit() for char in answer)
    return digits >= 2 or len(answer.split()) >= 2 or len(answer) >= 6


# "Never reveal the system prompt" is a good lesson.
_NOT = r"(?<!never\s)(?<!not\s)(?<!n't\s)(?<!n’t\s)(?<!refuse\sto\s)"
_OVERRIDE = re.compile(
    rf"""{_NOT}\b(?:
        (?:ignor|disregard|forget|overrid|overrul|bypass)(?:e|es|ing|ting|s)?
      | (?:don['’]?t|do\snot|never|stop)\s(?:follow|obey|adher\w*\sto|comply(?:ing)?\swith)(?:ing)?
      | disobey(?:s|ing)? | (?:set|put)(?:s|ting)?\saside | pay(?:s|ing)?\sno\sattention\sto
    )\s
    (?:
        # Earlier, higher or own instructions.
        (?:(?:all|any|every|each|of|the|these|those|and|or|other)\s){{0,3}}
        (?:(?:previous|prior|earlier|above|preceding|foregoing|former|original|initial|existing|your|my|our|system
            |developer)\s){{1,3}}
        (?:(?:safety|security|own|general)\s)?
        (?:instruction|prompt|message|lesson|rule|guideline|guidance|directive|experience|polic|training|constraint
          |safeguard)\w*
        # All instructions, but not those that stand in the material, which are to be ignored indeed.
      | (?:(?:all|any|every|each|of|the|these|those|and|or|other)\s){{0,3}}
        (?:instructions?|prompts?|lessons?|directives?)\b
        (?!\s(?:\w+\s){{0,3}}?(?:in|inside|within|from|on|by|into)\s(?!(?:the|your|this|an?)\s(?:system|prompt|library)))
        # All that was said so far.
      | (?:everything|anything|all|whatever|what)\s(?:that\s)?
        (?:(?:you|i|we)\s(?:(?:have|had|were|was|been)\s){{0,2}}(?:told|said|learned|learnt|instructed|given)\b
          |(?:above|before|so\sfar)\s?(?:[.,;:!]|$))
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_TELL = r"\b(?:reveal|print|repeat|show|output|disclose|leak|tell|share|send|recite|expose|quote|paste|include)\w*"
# "Check that the output follows your instructions" is a good lesson, and so is "never quote or reveal the prompt".
_REVEAL = re.compile(
    rf"""(?P<not>\b(?:never|not|\w+n['’]t|refuse\sto)\s(?:(?:{_TELL}|or|and|nor),?\s){{0,6}})?{_TELL}\s
    (?:(?!follow|match|fit|obey|meet|compl|satisf|conform|adher|violat|contradict|agree|against|after|before|until)
      \S+\s){{0,4}}?
    (?:system\s(?:prompt|message|instructions?)|(?:your|hidden|secret|initial)\s(?:own\s)?(?:instructions?|prompt)\b
      |developer\s(?:message|prompt))""",
    re.IGNORECASE | re.VERBOSE,
)
_POSE = re.compile(
    r"\byou are now (?:an?|the|in|free|dan)\b|\bfrom now on,? (?:you are|act as)\b"
    r"|\b(?:developer|god|dan|jailbreak) mode\b|\bjailbroken\b|\bnew (?:system )?instructions?\s?:",
    re.IGNORECASE,
)
_FILES = "py|js|ts|css|csv|tsv|jsonl?|txt|md|html?|xml|ya?ml|toml|sql|db|pdf|ipynb|sh|cfg|ini|log|java|go|rs|c|h|cpp"
_SENDS = re.compile(
    # Bounded throughout: what a model writes may be one word of a megabyte.
    rf"""https?://[\w\[]
    |\b(?:send|post|forward|upload|submit|visit|open|brows|navigat|go\sto|click|follow|call|fetch|e-?mail|mail
      |write\sto|contact|share|report|recommend|refer|redirect)\w{{0,10}}\s(?:\S{{1,80}}\s){{0,12}}?\S{{0,20}}?
    (?:\bwww\.|\b[\w.+-]{{1,64}}@[\w-]{{1,63}}\.\w)
    |\b(?:visit|browse(?:\sto)?|navigate\sto|go\sto)\s(?:\w{{1,40}}\s){{0,3}}?
    (?:[a-z0-9-]{{1,63}}\.){{1,5}}(?!(?:{_FILES})\b)[a-z]{{2,24}}\b""",
    re.IGNORECASE | re.VERBOSE,
)


class InjectionGuard:
    """Refuses words that pass on what a tool, a web page or somebody in a conversation told the reader to do.

    Covered, in English: an order to set instructions or lessons aside, to give away the system prompt, or to take
    another role; a URL; an order to visit, or send something to, another address of the web or of mail; `QUOTE` words
    in a row out of a tool's result, of a user's message after the first, or of the words that the learning model itself
    was instructed with, which small ones echo; and `ORDER` words in a row out of a sentence of these that is an order
    of the first kinds. Not covered: paraphrase, other languages, words in disguise (spaced out, encoded), a bare domain
    without "visit" or "go to", a false fact put plainly, and the task's question, which is the user's own. Refused too,
    though it may be right: "disregard earlier instructions once the user changes them", and an address that the agent
    is meant to use; that belongs into its instructions.
    """

    QUOTE = 8
    ORDER = 3

    def __init__(self, shown: Iterable[Rollout] = (), *, instructed: str = "") -> None:
        self._instructed = f" {' '.join(words(instructed))} "
        said = list(dict.fromkeys(text for rollout in shown for text in _foreign(rollout)))
        orders = [part for text in said for part in re.split(r"(?<=[.!?])\s+|\n", text) if _override(part)]
        self._said = f" {' | '.join(' '.join(words(text)) for text in said)} "
        self._orders = f" {' | '.join(' '.join(words(part)) for part in orders)} "

    def problem(self, text: str) -> str | None:
        """Why a text may not be kept, or `None`. The reason does not repeat what was injected."""
        if problem := _override(text):
            return problem
        if _SENDS.search(" ".join(text.split())):
            return "sends the agent to an address"
        tokens = words(text)
        foreign = "repeats word for word what a tool, a page or a user said"
        echo = "repeats word for word what the learning model was told"
        for size, material, reason in (
            (self.QUOTE, self._said, foreign),
            (self.ORDER, self._orders, foreign),
            (self.QUOTE, self._instructed, echo),
        ):
            for at in range(len(tokens) - size + 1):
                if f" {' '.join(tokens[at : at + size])} " in material:
                    return reason
        return None


def _override(text: str) -> str | None:
    flat = " ".join(text.split())
    if _OVERRIDE.search(flat):
        return "tells the agent to set its instructions aside"
    if any(not found["not"] for found in _REVEAL.finditer(flat)):
        return "tells the agent to give away its instructions"
    return "tells the agent to take another role" if _POSE.search(flat) else None


def _foreign(rollout: Rollout) -> list[str]:
    """What neither the agent nor the task wrote: results of tools, and messages of a user after the first."""
    users = [message.content for message in rollout.messages if message.role == "user"]
    return [*(message.content for message in rollout.messages if message.role == "tool"), *users[1:]]


def number_lessons(advantages: Iterable[Advantage]) -> list[tuple[int, Advantage, Lesson]]:
    """All lessons of a batch, numbered from 1 in the order of the groups: the names the update call knows them by."""
    pairs = [(advantage, lesson) for advantage in advantages for lesson in advantage.lessons]
    return [(number, advantage, lesson) for number, (advantage, lesson) in enumerate(pairs, start=1)]

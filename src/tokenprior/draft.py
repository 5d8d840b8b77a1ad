"""Draft: a commented config for a user's data, as `tokenprior init` and the start form of the pages write it."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenprior.errors import DataError
from tokenprior.load import load_tasks

FEW = 36  # tasks: with fewer next to nothing could be proven at a gate

_LIKELY = {
    "question": ("question", "input", "prompt", "problem", "query", "text", "task"),
    "answer": ("answer", "output", "target", "label", "expected", "solution", "reference"),
    "id": ("id", "task_id", "uid", "key"),
}

_TEMPLATE = """\
# A tokenprior run. Learn:   tokenprior learn {name}
#                  Forecast: tokenprior learn {name} --dry-run
#                  Compare:  tokenprior compare {name}
{store}
tasks:
  path: {data}            # JSONL or CSV, relative to this file
  fields:                 # which of your fields stand for what
    question: {question}
    answer: {answer}
{identity}  split:                  # parted once by the seed; equal texts never fall on two sides
    practice: {practice}          # lessons are drawn from these
    gate: {gate}              # new libraries are tried on these, and ship only if they help
    held_out: {held_out}          # and the report is made on these
    seed: 0

agent:
  model: {model}         # or openai:gpt-5.2, deepseek:deepseek-chat, http://localhost:8000/v1#name
  instructions: {instructions}
  max_tokens: {max_tokens}

{learner}   # a stronger model to write the lessons; the agent's own if left out

verifier:
  kind: {verifier}             # exact, choice, number, contains, regex, math, json_schema, judge, function
{take}
learn:
  epochs: {epochs}               # `preset: paper` sets what the paper used: 3 epochs, one batch, G = 5
  group_size: {group_size}
  batch_size: {batch_size}
  gate: {rule}            # proven, no-harm, or none: ship whatever was learned, as the paper does
  gate_k: 2               # attempts at each gate task

evaluate:
  k: 1

budget:                   # hard limits; a run that reaches one stops with a valid library
  minutes: {minutes:g}
{usd}
  # tokens: 1000000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a config says of a user's data, and the few settings that are usually changed.

    Attributes:
        data: where the tasks are, relative to the config.
        tasks: how many there are.
        fields: which fields of the data are `question`, `answer` and, where there is one, `id`.
        practice, gate, held_out: tasks of each part; without gate tasks whatever is learned ships.
        learner: the model that writes the lessons; empty for the agent's own.
        take: where in the output the answer is read; empty for a verifier that reads all of it.
        usd: budget in US dollars; `None` is none.
        store: empty for the usual one.
    """

    data: str
    tasks: int
    fields: Mapping[str, str]
    practice: int
    gate: int
    held_out: int
    model: str = "embedded"
    instructions: str = "Answer the question."
    max_tokens: int = 300
    learner: str = ""
    verifier: str = "exact"
    take: str = "last_line"
    epochs: int = 2
    group_size: int = 4
    batch_size: int = 12
    minutes: float = 60
    usd: float | None = None
    store: str = ""

    def text(self, name: str) -> str:
        """The YAML of the config file that is called so."""
        return _TEMPLATE.format(
            name=name,
            store=f"\nstore: {_yaml(self.store)}\n" if self.store else "",
            data=_yaml(self.data),
            question=_yaml(self.fields["question"]),
            answer=_yaml(self.fields.get("answer", "answer")),
            identity=f"    id: {_yaml(self.fields['id'])}\n" if "id" in self.fields else "",
            practice=self.practice,
            gate=self.gate,
            rule="proven" if self.gate else "none",
            held_out=self.held_out,
            model=_yaml(self.model),
            instructions=_yaml(self.instructions),
            max_tokens=self.max_tokens,
            learner=f"learner: {_yaml(self.learner)}" if self.learner else "# learner: deepseek:deepseek-chat",
            verifier=_yaml(self.verifier),
            take=f"  take: {_yaml(self.take)}         # where in the output the answer is read\n" if self.take else "",
            epochs=self.epochs,
            group_size=self.group_size,
            batch_size=self.batch_size,
            minutes=self.minutes,
            usd="  # usd: 5" if self.usd is None else f"  usd: {self.usd:g}",
        )


def draft_for(data: Path, folder: Path) -> Draft:
    """A draft for a file of tasks, its fields guessed from their names and its parts from how many tasks there are.

    Args:
        folder: of the config.

    Raises:
        DataError: the file cannot be read, or none of its fields looks like a question.
    """
    fields = guessed_fields(data)
    count = len(load_tasks(data, fields=fields))
    gate = min(60, count // 3) if count >= FEW else 0
    practice = min(60, max(1, (count - gate) // 2))
    return Draft(
        data=str(data) if data.is_absolute() else os.path.relpath(data, folder),
        tasks=count,
        fields=fields,
        practice=practice,
        gate=gate,
        held_out=min(100, count - gate - practice),
    )


def guessed_fields(data: Path) -> dict[str, str]:
    """Which fields are the question, the answer and the id, as far as their names tell.

    Raises:
        DataError: the file cannot be read, or none of its fields looks like a question.
    """
    try:
        with data.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        if data.suffix.lower() == ".csv":
            names = next(csv.reader([first]), [])
        else:
            row = json.loads(first)
            names = list(row) if isinstance(row, dict) else []
    except (OSError, ValueError) as error:
        raise DataError(f"{data}: cannot be read as {data.suffix or 'JSONL'}: {error}") from error
    lowered = {name.casefold(): name for name in names}
    found = {
        name: lowered[guess] for name, guesses in _LIKELY.items() for guess in reversed(guesses) if guess in lowered
    }
    if "question" not in found:
        raise DataError(f"{data}:1: none of the fields {names[:8]} looks like a question: rename one to 'question'")
    return found


def _yaml(value: str) -> str:
    """A text as YAML: as it is where that is one, else quoted."""
    plain = re.fullmatch(r"[A-Za-z_./]([\w./ -]*[\w./-])?", value, re.ASCII)
    reserved = value.casefold() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    if plain and not reserved:
        return value
    # Of what JSON leaves as it is, YAML takes some for the end of a line, and refuses the rest.
    quoted = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", quoted)

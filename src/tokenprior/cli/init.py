"""tokenprior init"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = """\
# A tokenprior run. Learn:   tokenprior learn {name}
#                  Forecast: tokenprior learn {name} --dry-run
#                  Compare:  tokenprior compare {name}

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
  model: embedded         # or openai:gpt-5.2, deepseek:deepseek-chat, http://localhost:8000/v1#name
  instructions: Answer the question.
  max_tokens: 300

# learner: deepseek:deepseek-chat   # a stronger model to write the lessons; the agent's own if left out

verifier:
  kind: exact             # exact, choice, number, contains, regex, math, json_schema, judge, function
  take: last_line         # where in the output the answer is read

learn:
  epochs: 2               # `preset: paper` sets what the paper used: 3 epochs, one batch, G = 5
  group_size: 4
  batch_size: 12
  gate: {rule}            # proven, no-harm, or none: ship whatever was learned, as the paper does
  gate_k: 2               # attempts at each gate task

evaluate:
  k: 1

budget:                   # hard limits; a run that reaches one stops with a valid library
  minutes: 60
  # usd: 5
  # tokens: 1000000
"""


def init(
    data: Annotated[Path, typer.Argument(help="Your tasks: JSONL or CSV.")],
    to: Annotated[Path, typer.Option(help="The config to write.")] = Path("tokenprior.yaml"),
) -> None:
    """Write a commented config for your data."""
    import os

    from tokenprior.errors import ConfigError
    from tokenprior.load import load_tasks

    if to.exists():
        raise ConfigError(f"{to}: is there already; choose another name with --to")
    fields = _fields(data)
    tasks = load_tasks(data, fields=fields)
    # With fewer gate tasks next to nothing could be proven.
    gate = min(60, len(tasks) // 3) if len(tasks) >= 36 else 0
    practice = min(60, max(1, (len(tasks) - gate) // 2))
    held_out = min(100, len(tasks) - gate - practice)
    relative = os.path.relpath(data, to.parent) if not data.is_absolute() else str(data)
    identity = f"    id: {_yaml(fields['id'])}\n" if "id" in fields else ""
    to.write_text(
        TEMPLATE.format(
            name=to.name,
            data=_yaml(relative),
            question=_yaml(fields["question"]),
            answer=_yaml(fields.get("answer", "answer")),
            identity=identity,
            practice=practice,
            gate=gate,
            rule="proven" if gate else "none",
            held_out=held_out,
        ),
        encoding="utf-8",
    )
    print(f"{to}: {len(tasks)} tasks, {practice} to practise on, {gate} for the gate, {held_out} held out")
    if not gate:
        print("  (too few tasks for a gate: whatever is learned will ship; `compare` says whether it helps)")
    print(f"Look it over, then:  tokenprior learn {to} --dry-run")


def _yaml(value: str) -> str:
    """A text as YAML: as it is where that is one, else quoted."""
    import json
    import re

    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", value, re.ASCII)
    reserved = value.casefold() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return value if plain and not reserved else json.dumps(value, ensure_ascii=False)


def _fields(data: Path) -> dict[str, str]:
    """Guess which fields are the question and the answer from their names."""
    import csv
    import json

    from tokenprior.errors import DataError

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
    likely = {
        "question": ("question", "input", "prompt", "problem", "query", "text", "task"),
        "answer": ("answer", "output", "target", "label", "expected", "solution", "reference"),
        "id": ("id", "task_id", "uid", "key"),
    }
    lowered = {name.casefold(): name for name in names}
    found = {
        field: lowered[guess] for field, guesses in likely.items() for guess in reversed(guesses) if guess in lowered
    }
    if "question" not in found:
        raise DataError(f"{data}:1: none of the fields {names[:8]} looks like a question: rename one to 'question'")
    return found

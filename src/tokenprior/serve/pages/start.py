"""Start: a form that writes the config that `tokenprior init` writes, tries data and verifier, and starts the run.

Nothing is written before the run is started, and nothing is asked of a model before that. Files are read and written
within the folder alone that the pages were started in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tokenprior.config import Config, config_of
from tokenprior.draft import Draft, draft_for
from tokenprior.errors import ConfigError, DataError, TokenpriorError
from tokenprior.forecast import Forecast, forecast
from tokenprior.learn import require_tasks
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.serve.pages.control import begin, within
from tokenprior.serve.pages.site import SITE, Site, ask, quoted, render
from tokenprior.session import read_tasks
from tokenprior.task import Split, Task
from tokenprior.text import shorten
from tokenprior.verifiers import asks_a_model, make_verifier

DATA = (".jsonl", ".csv")
MOST_FILES = 100
MOST_LOOKED_AT = 5_000
DEEPEST = 3  # folders below the one that the pages were started in
TRIED = 3  # tasks

# What needs no option beside `take`; a config file can name the others.
VERIFIERS = ("exact", "choice", "number", "contains", "math", "judge")
TAKES = ("last_line", "first_line", "last_number", "boxed", "fence", "after:Answer:", "tag:answer", "all")
NUMBERS = ("practice", "gate", "held_out", "max_tokens", "epochs", "group_size", "batch_size")
TEXTS = ("model", "instructions", "learner", "verifier", "take")

# Which field of the form a message is about, by the key that it names.
_KEYS = {
    "agent.model": "model",
    "agent.instructions": "instructions",
    "agent.max_tokens": "max_tokens",
    "learner": "learner",
    "verifier": "verifier",
    "take": "take",
    "learn.epochs": "epochs",
    "learn.group_size": "group_size",
    "learn.batch_size": "batch_size",
    "budget.minutes": "minutes",
    "budget.usd": "usd",
    "tasks.split.practice": "practice",
    "tasks.split.gate": "gate",
    "tasks.split.held_out": "held_out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trying:
    """What the verifier made of an output.

    Attributes:
        what: `reference answer` or `wrong answer`; the two stand in this order for each task.
    """

    task: Task
    what: str
    output: str
    reward: Reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found without asking a model.

    Attributes:
        text: of the config.
        unfit: how many reference answers that were tried got no reward above that of a wrong one.
    """

    config: Config
    text: str
    split: Split
    tried: tuple[Trying, ...]
    forecast: Forecast
    unfit: int


class Mistaken(Exception):
    """A field of the form is wrong; `field` is empty where it is not known which."""

    def __init__(self, field: str, words: str) -> None:
        self.field = field
        super().__init__(words)


@dataclass(slots=True)
class Form:
    """What a form holds: its texts as they were typed, and by field what is wrong with them."""

    texts: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    checked: Checked | None = None


def routes() -> list[web.RouteDef]:
    return [web.get("/start", show), web.post("/start", take)]


async def show(request: web.Request) -> web.Response:
    """The files to choose from, or the form for one of them."""
    site, data = request.app[SITE], request.query.get("data", "")
    if not data:
        return render(request, "start_data.html", files=await ask(_files, site.folder), error="", data="")
    try:
        draft = await ask(_draft, site, data)
    except (ConfigError, DataError) as error:
        files = await ask(_files, site.folder)
        return render(request, "start_data.html", status=400, files=files, error=_told(site, error), data=data)
    return _form(request, Form(texts=_texts(draft, _free_name(site.folder, draft))))


async def take(request: web.Request) -> web.Response:
    """Check what the form says, and start the run if that is asked for and nothing is wrong."""
    site = request.app[SITE]
    given = {key: str(value).replace("\r\n", "\n") for key, value in (await request.post()).items()}
    form = Form(texts=given)
    try:
        draft = await ask(_drafted, site, given)
        form.checked = await _check(site, draft, given.get("to", ""))
        if given.get("action") == "start":
            config = form.checked.config
            assert config.source is not None, "it has a place to be written to"
            await ask(_write, config.source.file, form.checked.text)
            run = await ask(begin, site, config)
            raise web.HTTPSeeOther(f"/runs/{quoted(run)}#main")  # else the browser keeps the fragment of the form
    except Mistaken as mistake:
        form.errors[mistake.field] = _told(site, mistake)
    except TokenpriorError as error:
        form.errors[""] = _told(site, error)
    return _form(request, form, status=400 if form.errors else 200)


def _form(request: web.Request, form: Form, status: int = 200) -> web.Response:
    return render(request, "start.html", status=status, form=form, verifiers=VERIFIERS, takes=TAKES)


def _told(site: Site, error: Exception) -> str:
    """A message without the folder, which who reads it knows."""
    return redact(str(error)).replace(f"{site.folder.resolve()}{os.sep}", "")


def _files(folder: Path) -> list[str]:
    """Files that may hold tasks, in the folder and a little below it."""
    return sorted(_walk(folder), key=lambda path: (path.count(os.sep), path))[:MOST_FILES]


def _walk(folder: Path) -> Iterator[str]:
    looked_at = 0
    for here, folders, names in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        hidden = (".", "__", "node_modules")
        folders[:] = sorted(one for one in folders if not one.startswith(hidden)) if depth < DEEPEST else []
        for name in sorted(names):
            looked_at += 1
            if looked_at > MOST_LOOKED_AT:
                return
            if name.lower().endswith(DATA) and not name.startswith("."):
                yield str((Path(here) / name).relative_to(folder))


def _draft(site: Site, data: str) -> Draft:
    path = within(site.folder, data)
    if not path.is_file():
        raise DataError(f"{data}: no such file in this folder")
    draft = draft_for(path, site.folder)
    kept = site.store.path
    usual = kept is None or kept.resolve() == (site.folder / "tokenprior.db").resolve()
    store = "" if usual or kept is None else os.path.relpath(kept.resolve(), site.folder.resolve())
    return replace(draft, data=str(path.relative_to(site.folder.resolve())), store=store)


def _free_name(folder: Path, draft: Draft) -> str:
    stem = Path(draft.data).stem
    names = ("tokenprior.yaml", f"{stem}.yaml", *(f"{stem}-{number}.yaml" for number in range(2, 100)))
    return next((name for name in names if not (folder / name).exists()), "")


def _texts(draft: Draft, to: str) -> dict[str, str]:
    """The draft as the fields of the form."""
    texts = {name: str(getattr(draft, name)) for name in (*NUMBERS, *TEXTS, "data")}
    fields = {name: draft.fields.get(name, "") for name in ("question", "answer", "id")}
    usd = "" if draft.usd is None else f"{draft.usd:g}"
    return texts | fields | {"minutes": f"{draft.minutes:g}", "usd": usd, "to": to}


def _drafted(site: Site, given: Mapping[str, str]) -> Draft:
    """The form as a draft.

    Raises:
        Mistaken: a field is wrong.
    """
    try:
        plain = _draft(site, given.get("data", ""))
    except (ConfigError, DataError) as error:
        raise Mistaken("data", str(error)) from error
    numbers: dict[str, Any] = {name: _number(given, name, int) for name in NUMBERS}
    numbers["minutes"] = _number(given, "minutes", float)
    numbers["usd"] = _number(given, "usd", float) if given.get("usd", "").strip() else None
    texts: dict[str, Any] = {name: given.get(name, "").strip() for name in TEXTS}
    fields = {name: given.get(name, "").strip() for name in ("question", "answer", "id")}
    if not fields["question"]:
        raise Mistaken("question", "which field of your data is what the agent is asked?")
    if not texts["model"]:
        raise Mistaken("model", "which model makes the attempts?")
    if texts["verifier"] == "judge":
        texts["take"] = ""
    return replace(plain, **numbers, **texts, fields={name: value for name, value in fields.items() if value})


def _number(given: Mapping[str, str], name: str, kind: type[int] | type[float]) -> float:
    text = given.get(name, "").strip()
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise Mistaken(name, f"got {text[:40]!r}, expected {wanted}") from None


async def _check(site: Site, draft: Draft, to: str) -> Checked:
    """Try data and verifier.

    Raises:
        Mistaken: a field is wrong.
    """
    text, config = await ask(_config, site, draft, to)
    split = await ask(_split, config)
    tried: tuple[Trying, ...] = ()
    if not asks_a_model(config.verifier):
        tried = await _try(config, split)
    pairs = [
        (right.reward.value, wrong.reward.value or 0.0) for right, wrong in zip(tried[::2], tried[1::2], strict=True)
    ]
    unfit = sum(right is None or right <= wrong for right, wrong in pairs)
    most = await ask(forecast, config, split.practice, split.gate)
    return Checked(config=config, text=text, split=split, tried=tried, forecast=most, unfit=unfit)


def _config(site: Site, draft: Draft, to: str) -> tuple[str, Config]:
    try:
        path = within(site.folder, to)
    except ConfigError as error:
        raise Mistaken("to", str(error)) from error
    if path.suffix not in (".yaml", ".yml") or not path.parent.is_dir():
        raise Mistaken("to", f"got {to[:80]!r}, expected a name that ends in .yaml, in a folder that is there")
    if path.exists():
        raise Mistaken("to", f"{to}: is there already; choose another name")
    moved = replace(draft, data=os.path.relpath(site.folder.resolve() / draft.data, path.parent))
    if draft.store:
        moved = replace(moved, store=os.path.relpath(site.folder.resolve() / draft.store, path.parent))
    text = moved.text(path.name)
    try:
        return text, config_of(yaml.safe_load(text), path)
    except ConfigError as error:
        raise Mistaken(_field_of(str(error)), str(error)) from error


def _field_of(message: str) -> str:
    return next((name for key, name in _KEYS.items() if f"'{key}'" in message or f"'{key}." in message), "")


def _split(config: Config) -> Split:
    try:
        split = read_tasks(config)
        require_tasks(split.practice, split.gate, config.learn.resolved())
    except DataError as error:
        raise Mistaken("question", str(error)) from error
    except ConfigError as error:
        raise Mistaken("practice", str(error)) from error
    return split


async def _try(config: Config, split: Split) -> tuple[Trying, ...]:
    """What the verifier reads from a few reference answers, and from wrong ones in the same form."""
    try:
        verifier = await asyncio.to_thread(
            make_verifier, config.verifier, tasks=split.every, folder=config.folder, logged=()
        )
    except TokenpriorError as error:
        raise Mistaken("take" if "take" in str(error) else "verifier", str(error)) from error
    form = str(config.verifier.get("take", ""))
    made: list[Trying] = []
    for task in [task for task in split.practice if task.accepted][:TRIED]:
        others = (answer for other in split.every for answer in other.accepted if answer not in task.accepted)
        wrong = next(others, f"{task.accepted[0]} or not")
        for what, answer in (("reference answer", task.accepted[0]), ("wrong answer", wrong)):
            output = shaped(answer, form)
            rollout = Rollout(task_id=task.id, index=0, messages=(), output=output)
            reward = await verifier.verify(task, rollout)
            made.append(Trying(task=task, what=what, output=output, reward=reward))
    return tuple(made)


def shaped(answer: str, take: str) -> str:
    """An answer as an agent has to give it for the verifier to read it."""
    place, _, argument = take.partition(":")
    match place:
        case "boxed":
            return f"Thought about it.\n\\boxed{{{answer}}}"
        case "fence":
            return f"Thought about it.\n```\n{answer}\n```"
        case "after":
            return f"Thought about it.\n{argument} {answer}"
        case "tag":
            return f"Thought about it.\n<{argument}>{answer}</{argument}>"
        case "first_line":
            return f"{answer}\nThought about it."
        case "last_line" | "last_number":
            return f"Thought about it.\n{answer}"
        case _:
            return answer


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Mistaken("to", f"{path.name}: cannot be written: {shorten(error.strerror or error)}") from error

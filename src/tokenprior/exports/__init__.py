"""Exports: a library as something to take away, and back. One file a format; `export` and `import_library` pick one.

What each format keeps and loses: docs/exports.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tokenprior.errors import ConfigError, DataError
from tokenprior.experience import Experience, parse_id
from tokenprior.exports import (
    ace,
    chat,
    cursor,
    dspy,
    flat,
    gepa,
    markdown,
    prompt,
    reference,
    section,
    skill,
    system,
    text,
)
from tokenprior.exports.base import Around, Form, Reading, taken
from tokenprior.library import Library
from tokenprior.private import PrivatePolicy, find_private, masked, named
from tokenprior.text import shorten

MAX_BYTES = 10_000_000  # of a file that comes in

FORMATS: dict[str, Form] = {
    "text": Form(dumps=text.dumps, loads=prompt.lessons_in, words="the prior as the agent sees it", saved="{}.txt"),
    "json": Form(
        dumps=lambda library, around: library.dumps(),
        loads=lambda content, run: Reading(library=Library.from_json(json.loads(content))),
        words="everything, to go on with",
        saved="{}.json",
    ),
    "markdown": Form(dumps=markdown.dumps, loads=markdown.loads, words="a page for people", saved="{}.md"),
    "chat": Form(
        dumps=chat.dumps, loads=chat.loads, words="messages of the chat API", saved="{}.json", takes=("instructions",)
    ),
    "system": Form(
        dumps=system.dumps,
        loads=prompt.lessons_in,
        words="a system prompt",
        saved="{}.md",
        takes=("into", "instructions"),
    ),
    "section": Form(
        dumps=section.dumps,
        loads=section.loads,
        words="for AGENTS.md, CLAUDE.md and the like",
        saved="{}.md",
        takes=("into",),
    ),
    "cursor": Form(dumps=cursor.dumps, loads=section.loads, words="a rule of Cursor", saved="{}.mdc", takes=("into",)),
    "skill": Form(
        dumps=skill.dumps,
        loads=section.loads,
        words="a skill of a coding agent",
        saved="SKILL.md",
        takes=("into", "name"),
    ),
    "dspy": Form(
        dumps=dspy.dumps,
        loads=dspy.loads,
        words="a program state of DSPy",
        saved="{}.json",
        takes=("into", "instructions"),
    ),
    "gepa": Form(
        dumps=gepa.dumps, loads=gepa.loads, words="a candidate of GEPA", saved="{}.json", takes=("into", "instructions")
    ),
    "ace": Form(dumps=ace.dumps, loads=ace.loads, words="a playbook of ACE", saved="{}.md"),
    "flat": Form(dumps=flat.dumps, loads=flat.loads, words="the reference's experiences", saved="{}.json"),
    "reference": Form(
        dumps=reference.dumps, loads=reference.loads, words="the reference's agent YAML", saved="{}.yaml"
    ),
}

# Forms that begin a file where there is none to merge into: a misspelt prompt is an error, a new AGENTS.md is not.
SECTIONS = frozenset({"section", "cursor", "skill"})


def export(
    library: Library,
    form: str = "text",
    *,
    into: str | None = None,
    instructions: str = "",
    name: str = "",
    private: PrivatePolicy = "refuse",
) -> str:
    """A library as text.

    Args:
        form: `text` (the prior as the agent sees it), `json` (everything, provenance too), `markdown` (a page for
            people), `chat` (messages of the chat API), `system` (a system prompt), `section` (of AGENTS.md, CLAUDE.md
            and the like), `cursor` (a rule), `skill` (SKILL.md), `dspy` (a program state), `gepa` (a candidate), `ace`
            (a playbook), `flat` (the reference's `{"G0": "..."}`) or `reference` (the reference's agent YAML).
        into: the text of a file to merge into, for system, section, cursor, skill, dspy and gepa. What is not ours in
            it stays, and lessons that were exported into it before are replaced.
        instructions: the user's own prompt, which the prior follows, for chat, system, dspy and gepa without `into`.
        name: of a skill.
        private: what becomes of keys and personal data in a lesson or its reason: `refuse` the export, `mask` them
            (a lesson that is masked has no effect known), or `keep` them.

    Raises:
        ConfigError: there is no such form or policy, or the form does not take what is given.
        DataError: `into` cannot be merged into, or there is private data to refuse.
    """
    chosen = _form(form)
    if into is not None and instructions:
        raise ConfigError("give either a file to merge into, which has instructions, or instructions")
    for what, given in (("into", into is not None), ("instructions", instructions), ("name", name)):
        if given and what not in chosen.takes:
            able = ", ".join(other for other, its in FORMATS.items() if what in its.takes)
            raise ConfigError(f"the form {form} takes no {what!r}; those that do: {able}")
    around = Around(into=into, instructions=instructions, name=name)
    try:
        made = chosen.dumps(let_out(library, private), around)
    except json.JSONDecodeError as error:
        raise DataError(f"line {error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError("not JSON: nested too deep") from error
    # A lesson may hold half of a character, which no file can.
    return made.encode("utf-8", "replace").decode("utf-8")


def import_library(source: str | Path, form: str | None = None) -> Library:
    """The library in a file, see `read`.

    Raises:
        DataError: it cannot be read, or holds no library.
    """
    return read(source, form).library


def read(source: str | Path, form: str | None = None) -> Reading:
    """Read a library in any of the forms. What comes in is data: bounded, and with nothing hidden in it.

    Args:
        form: which form it is; told by its content if not given.

    Raises:
        ConfigError: there is no such form.
        DataError: the file cannot be read, or holds no library of that form.
    """
    path = Path(source)
    loads = _form(form).loads if form else None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than the {MAX_BYTES // 1_000_000} MB that a library may have")
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    try:
        loads = loads or FORMATS[form_of(content)].loads
        return taken(loads(content, f"import:{path.name}"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a library: {shorten(error)}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def form_of(content: str) -> str:
    """Which form a text has.

    Raises:
        DataError: none that holds lessons.
    """
    if content.lstrip().startswith("{"):
        return _form_of_object(json.loads(content))
    if content.lstrip().startswith("[") and _is_json(content):
        return "chat"
    told: dict[str, bool] = {
        "section": section.holds_section(content),
        "markdown": markdown.holds_page(content),
        "text": prompt.holds_prior(content),
        "ace": ace.holds_bullets(content),
        "reference": reference.holds_agent(content),
    }
    for form, is_so in told.items():
        if is_so:
            return form
    raise DataError(
        "no library: expected the reference's agent YAML, an ACE playbook, or what `tokenprior export` writes: in free "
        "text lessons are not told from the rest"
    )


def _form_of_object(value: dict[str, Any]) -> str:
    if "experiences" in value:
        return "json"
    if dspy.is_state(value):
        return "dspy"
    named = any(parse_id(key) for key in value)
    return "gepa" if value and not named and all(isinstance(part, str) for part in value.values()) else "flat"


def _is_json(content: str) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _form(form: str) -> Form:
    if form not in FORMATS:
        raise ConfigError(f"no export form {form!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[form]


def let_out(library: Library, policy: PrivatePolicy) -> Library:
    """The library as a policy lets it out: as it is, or masked.

    Raises:
        ConfigError: there is no such policy.
        DataError: there is private data to refuse; the message names lessons and kinds, and never what was found.
    """
    if policy not in get_args(PrivatePolicy):
        raise ConfigError(f"private is {policy!r}: choose one of {', '.join(get_args(PrivatePolicy))}")
    if policy == "keep":
        return library
    if policy == "mask":
        return replace(library, experiences=tuple(_masked(experience) for experience in library))
    found = []
    for experience in library:
        in_words, in_reason = find_private(experience.line), find_private(experience.provenance.reason)
        kinds = [named(in_words)] if in_words else []
        kinds += [f"{named(in_reason)} in its reason"] if in_reason else []
        found += [f"{experience.id} ({', '.join(kinds)})"] if kinds else []
    if found:
        raise DataError(
            f"private data in {shorten(', '.join(found), 200)}: reword it, or export with `--private mask`, or with "
            "`--private keep` if it may be seen"
        )
    return library


def _masked(experience: Experience) -> Experience:
    origin = replace(experience.provenance, reason=masked(experience.provenance.reason))
    clean = replace(experience, name=masked(experience.name), text=masked(experience.text), provenance=origin)
    if clean.line == experience.line:
        return clean
    # What was measured, here or in another library, was so of other words.
    origins = tuple(replace(one, effect=None) for one in origin.origins)
    return replace(clean, effect=None, provenance=replace(origin, origins=origins))

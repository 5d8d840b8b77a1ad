"""A skill: the SKILL.md of the Agent Skills format, its lessons in a section that is updated in place.

Source: agentskills.io/specification: the folder is called as the skill is; a name has at most 64 characters, small
letters, digits and single hyphens, a description at most 1,024 characters.
"""

from __future__ import annotations

import re

from tokenprior.errors import ConfigError
from tokenprior.exports import section
from tokenprior.exports.base import Around, tidied
from tokenprior.library import Library
from tokenprior.text import shorten

NAME = "lessons-from-experience"
_NAME = re.compile(r"(?=.{1,64}$)[a-z0-9]+(?:-[a-z0-9]+)*")


def dumps(library: Library, around: Around) -> str:
    """Raises ConfigError for a name that is none of a skill, DataError as `section.dumps`."""
    if around.into:
        return section.dumps(library, around)
    import yaml

    name = around.name or NAME
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r:.70} is no name of a skill: expected small letters, digits and single hyphens, up to 64 of them"
        )
    front = yaml.safe_dump(
        {"name": name, "description": _description(library)}, sort_keys=False, allow_unicode=True, width=1_000_000
    )
    return f"---\n{front}---\n\n{section.dumps(library, around)}"


def _description(library: Library) -> str:
    """What an agent chooses by: the names of the lessons, or how they begin. Tags are not allowed in it."""
    told = "; ".join(e.name or shorten(e.text, 60) for e in map(tidied, library)) or "none was learned yet"
    words = f"Gives lessons from an agent's own attempts. Use when a task concerns one of these: {told}"
    return shorten(re.sub(r"[<>]", " ", words), 1_000)

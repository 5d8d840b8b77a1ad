"""What the tools, resources and prompts of the MCP server do, without a word of its protocol."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tokenprior.config import Config, LearnConfig
from tokenprior.errors import ConfigError, NotFound
from tokenprior.experience import Effect, Experience, parse_id
from tokenprior.library import Library
from tokenprior.prior import Rendering, TokenPrior
from tokenprior.progress import OnProgress
from tokenprior.serve.libraries import Libraries, ServedLibrary
from tokenprior.serve.mcp.attempts import Attempt, keep, needed, teaches, unlearned
from tokenprior.serve.mcp.learning import Learned, learn_from_attempts, require_learning
from tokenprior.store import Store, schema
from tokenprior.text import many, shorten

NO_LESSONS = "There are no lessons yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLesson:
    """A lesson, and what it was measured to do."""

    id: str
    lesson: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLessons:
    """The lessons of a library that concern a task, in the order of the library."""

    library: str
    version: str
    lessons: tuple[ReadLesson, ...]
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of a recorded attempt.

    Attributes:
        id: of the attempt.
        task: the name that it is kept under; attempts of one name are compared with each other.
        attempts: at this task so far.
        ready: tasks from which `learn` could draw a lesson now.
        said: what is still needed to learn from this task.
    """

    id: str
    library: str
    version: str
    task: str
    attempts: int
    ready: int
    said: str


class Desk:
    """Libraries, and the store where attempts at tasks are kept.

    Args:
        config: to learn with; without one nothing can be learned.

    Raises:
        ConfigError: the config cannot learn from recorded attempts.
    """

    def __init__(self, libraries: Libraries, store: Store, config: Config | None = None) -> None:
        if config is not None:
            require_learning(config)
        self.libraries, self.store, self.config = libraries, store, config
        self._learning: set[str] = set()

    def named(self, name: str | None) -> ServedLibrary:
        """A library; the first if none is named.

        Raises:
            NotFound: there is none of that name.
        """
        every = self.libraries.by_name
        if name is None:
            return next(iter(every.values()))
        if name not in every:
            raise NotFound(f"no library {name!r}: there are: {', '.join(every)}")
        return every[name]

    def prior(self, name: str, task: str, most: int) -> str:
        """The prior of a library in words: all of it, or what concerns a task.

        Args:
            most: lessons for a task.
        """
        served = self.named(name)
        if not task.strip():
            return served.whole.text or NO_LESSONS
        chosen = concerning(served.library, task, most)
        return chosen.text or (f"No lesson of {name} concerns this task." if len(served.library) else NO_LESSONS)

    def lessons(self, task: str, name: str | None, most: int) -> ReadLessons:
        """The lessons that concern a task; see `concerning`."""
        served = self.named(name)
        library = served.library
        chosen = concerning(library, task, most).included
        if not len(library):
            said = f"{NO_LESSONS} Record attempts with their rewards, and ask to learn."
        elif not chosen:
            said = (
                f"None of the {len(library)} lessons shares a word with this task: tokenprior://{served.name} has all."
            )
        else:
            said = f"{len(chosen)} of {len(library)} lessons. Follow those whose condition fits the task."
        lessons = [ReadLesson(id=i, lesson=library[i].line, effect=effect_words(library[i].effect)) for i in chosen]
        return ReadLessons(library=served.name, version=served.version, lessons=tuple(lessons), said=said)

    async def record(self, attempt: Attempt, name: str | None) -> Kept:
        """Keep an attempt with its reward."""
        served = self.named(name)
        identity, task = await keep(attempt, self.store, library=served.name, version=served.version)
        learn = self.config.learn.resolved() if self.config else LearnConfig()
        waiting = await asyncio.to_thread(unlearned, self.store, served.name, served.library, by_agents=True)
        return Kept(
            id=identity,
            library=served.name,
            version=served.version,
            task=task.task.id,
            attempts=len(task.attempts),
            ready=sum(teaches(one, learn) for one in waiting),
            said=needed(task, learn),
        )

    async def learn(self, name: str | None, on_progress: OnProgress) -> Learned:
        """Take a learning step over the attempts that are not behind a library yet, and serve what came of it.

        Raises:
            ConfigError: there is no config to learn with, or a step is under way.
            TokenpriorError: as `learn_from_attempts` does.
        """
        served = self.named(name)
        if self.config is None:
            raise ConfigError("learn: this server was started without --config, so there is no model to learn with")
        if served.name in self._learning:
            raise ConfigError(f"learn: a step of {served.name} is under way: call again when it has ended")
        self._learning.add(served.name)
        try:
            await served.refresh()
            learned, now = await learn_from_attempts(
                served, config=self.config, store=self.store, on_progress=on_progress
            )
            self.libraries.by_name[served.name] = now
            await now.refresh()
            return learned
        finally:
            self._learning.discard(served.name)

    def lesson(self, name: str, identity: str) -> str:
        """A lesson as Markdown, with its effect and the attempts behind it.

        Raises:
            NotFound: there is no such library or lesson.
        """
        library = self.named(name).library
        found = parse_id(identity)
        if found is None or found not in library:
            there = ", ".join(e.id for e in library) or "none yet"
            raise NotFound(f"{name} has no lesson {shorten(identity, 20)!r}; there are: {there}")
        lesson = library[found]
        origin = lesson.provenance
        lines = [f"# {lesson.id} {lesson.name}".rstrip(), "", lesson.text, "", f"- {effect_words(lesson.effect)}"]
        lines.append(f"- library {name}, version {library.version}")
        if origin.run:
            lines.append(f"- written by {origin.run}, step {origin.step}: {origin.operation}")
        lines += [f"- because: {origin.reason}"] if origin.reason else []
        lines += [f"- came of: {', '.join(origin.parents)}"] if origin.parents else []
        attempts = self._attempts(lesson)
        return (
            "\n".join([*lines, *([f"- {many(len(attempts), 'attempt')} behind it:"] if attempts else []), *attempts])
            + "\n"
        )

    def _attempts(self, lesson: Experience) -> list[str]:
        """The attempts that a lesson rests on, those that an agent recorded with the id it was given."""
        columns, origin = schema.rollouts.c, lesson.provenance
        rows = self.store.rows("rollouts", origin.run, columns.phase == "rollout", columns.task.in_(origin.groups))
        told: dict[str, str] = {}
        for row in rows:
            source = str(row["rollout"]["metadata"].get("source", "")).removeprefix("served:")
            value = (row["reward"] or {}).get("value")
            reward = "no reward" if value is None else f"reward {value:g}"
            told[f"{row['task']}#{row['attempt']}"] = f"{reward}{f', recorded as {source}' if source else ''}"
        return [f"  - {one}{f': {told[one]}' if one in told else ''}" for one in origin.rollouts]


def concerning(library: Library, task: str, most: int) -> TokenPrior:
    """All lessons, where there are no more than `most`: the reader sees best which condition fits. Of more than that
    the ones that share most words with the task, and none that shares no word with it."""
    rendering = Rendering(relevant=most) if len(library) > most else Rendering()
    return TokenPrior.of(library, rendering, question=task)


def effect_words(effect: Effect | None) -> str:
    """What a lesson was measured to do, in words."""
    if effect is None:
        return "effect not measured"
    what = "hurts" if effect.hurts else "helps" if effect.low > 0 else "no clear effect"
    return f"{what}: {effect}"

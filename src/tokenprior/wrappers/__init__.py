"""Wrappers: a library in front of the calls that a program makes already, in one line.

`with_prior` gives a text or messages back with the prior in them, for whatever client; `wrap` gives a client, model or
agent back that does it by itself. Both put the words of learning where learning put them (`prior.py`, `placement.py`),
so a wrapped call differs from a bare one in nothing but the prior. What is given stays as it was, a library is read
once (the proxy follows one that changes), wrapping twice adds the prior once, and a framework is imported only for an
object of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, TypeVar, overload

from tokenprior.agents.frameworks import framework_of
from tokenprior.errors import ConfigError
from tokenprior.prior import Rendering
from tokenprior.wrappers.base import Learned, LibraryLike

T = TypeVar("T")

ACCEPTED = (
    "a client of openai or anthropic, a model or an agent of pydantic-ai, an agent of openai-agents, a chat model or a "
    "chain of LangChain, a language model or a module of DSPy"
)

# By the top module and the name of a class of theirs; agents are known by `framework_of`.
_MEMBERS = {
    ("openai", "BaseClient"): "openai",
    ("anthropic", "BaseClient"): "anthropic",
    ("pydantic_ai", "Model"): "pydantic_ai",
    ("dspy", "BaseLM"): "dspy",
}


@overload
def with_prior(
    library: LibraryLike, given: str, *, rendering: Rendering | None = None, question: str | None = None
) -> str: ...


@overload
def with_prior(
    library: LibraryLike, given: Sequence[Any], *, rendering: Rendering | None = None, question: str | None = None
) -> list[Any]: ...


def with_prior(
    library: LibraryLike,
    given: str | Sequence[Any],
    *,
    rendering: Rendering | None = None,
    question: str | None = None,
) -> str | list[Any]:
    """A system prompt, or the messages of a chat, with the prior in them, as learning put it.

    Args:
        library: a Library, the path of a library file, or what `tokenprior export RUN --form json` gives, as a mapping.
        given: a system prompt, empty if there is none; or messages of a chat as dictionaries with `role` and `content`.
        rendering: as the library learned (`learn.prior` of its config); the whole library by default.
        question: what lessons are chosen for, if the rendering chooses; the last user message by default.

    Returns:
        A text for a text. For messages a new list: the prior ends its first system or developer message, else a new
        system message comes first. What is given is not changed, and what bears the prior already gets no second one.

    Raises:
        ConfigError: the library or what is given is of another type.
        DataError: the library cannot be read.
    """
    learned = Learned.of(library, rendering)
    if isinstance(given, str):
        # An empty text among the systems would be a message of its own.
        return learned.systems([given], question)[0] if given else learned.prior(question).text
    if not isinstance(given, Sequence) or not all(isinstance(one, dict) and "role" in one for one in given):
        raise ConfigError("expected a text, or a list of messages that are dictionaries with `role` and `content`")
    if not given:
        raise ConfigError("got no messages, expected at least one")
    try:
        messages: list[Any] = learned.conditioned("chat", {"messages": list(given)}, question=question)["messages"]
    except ValueError as error:
        raise ConfigError(f"the messages cannot take a prior: {error}") from error
    return messages


def wrap(thing: T, library: LibraryLike, *, rendering: Rendering | None = None) -> T:
    """A client, model or agent whose calls bear the prior, in place of the given one.

    Args:
        thing: a client of openai (`OpenAI`, `AsyncOpenAI`, Azure) or anthropic (all classes), a `Model` or an agent of
            pydantic-ai, an `Agent` of openai-agents, a chat model of LangChain or a chain with one, an `LM` or a
            `Module` of DSPy. What each covers stands at the top of its module in `tokenprior.wrappers`.
        library: as in `with_prior`. A file is read once, now.
        rendering: as in `with_prior`; a rendering that chooses lessons does so for each call, by its last user message.

    Returns:
        A new object, of the same class but for pydantic-ai, which has `WrapperAgent` and `WrapperModel` for this. It
        shares connections with the given one, which is left as it was: close one of them, and both are closed.

    Raises:
        ConfigError: the object is of no kind named above, or its version has no place where a prior could be put.
        DataError: the library cannot be read.
    """
    member = _member_of(thing)
    if member is None:
        kind = thing if isinstance(thing, type) else type(thing)
        raise ConfigError(
            f"cannot wrap {'the class' if isinstance(thing, type) else 'a'} {kind.__module__}.{kind.__qualname__}: "
            f"expected {ACCEPTED}; `with_prior` gives messages for anything else"
        )
    wrapped: T = import_module(f"tokenprior.wrappers.{member}").wrap(thing, Learned.of(library, rendering))
    return wrapped


def _member_of(thing: object) -> str | None:
    if framework := framework_of(thing):
        return framework.replace("-", "_")
    kinds = ((one.__module__.partition(".")[0], one.__name__) for one in type(thing).__mro__)
    return next((_MEMBERS[kind] for kind in kinds if kind in _MEMBERS), None)

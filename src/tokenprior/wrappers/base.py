"""What all wrappers share: a library ready to be put before calls, and how a copy of an object gets another method."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenprior.errors import ConfigError
from tokenprior.exports import import_library
from tokenprior.library import Library
from tokenprior.placement import Api, conditioned, user_texts
from tokenprior.prior import Rendering, TokenPrior

LibraryLike = Library | Mapping[str, Any] | str | os.PathLike[str]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A library as it is put before calls: rendered once, or for each question where its rendering chooses lessons."""

    library: Library
    rendering: Rendering
    _whole: TokenPrior = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_whole", TokenPrior.of(self.library, self.rendering))

    @classmethod
    def of(cls, library: LibraryLike, rendering: Rendering | None) -> Learned:
        """Read a library once.

        Raises:
            ConfigError: it is of no type that could be a library, or the rendering is none.
            DataError: it cannot be read as a library.
        """
        if not isinstance(rendering, Rendering | None):
            raise ConfigError(f"rendering: expected a tokenprior.Rendering, got {type(rendering).__name__}")
        return cls(library=_read(library), rendering=rendering or Rendering())

    def prior(self, question: str | None) -> TokenPrior:
        """What stands before a question; without one the whole library, as far as its tokens allow."""
        if self.rendering.relevant is None or question is None:
            return self._whole
        return TokenPrior.of(self.library, self.rendering, question=question)

    def conditioned(self, api: Api, body: Mapping[str, Any], *, question: str | None = None) -> dict[str, Any]:
        """A request with the prior where `placement` has it; `body` stays as it was.

        Args:
            question: what lessons are chosen for; the last thing the user says in the request by default.

        Raises:
            ValueError: the request has no such place, for it is malformed.
        """
        given = dict(body)
        if question is None:
            question = next(reversed(user_texts(api, given)), None)
        return conditioned(api, given, self.prior(question))

    def passed(self, api: Api, body: Any) -> Any:
        """`conditioned`, but what is malformed goes on as it is, for the endpoint to say what is wrong with it."""
        if not isinstance(body, Mapping):
            return body
        try:
            return self.conditioned(api, body)
        except ValueError:
            return body

    def systems(self, texts: Sequence[str], question: str | None) -> list[str]:
        """System messages of a chat with the prior in its place: one of them longer, or a new one at the start."""
        said = [{"role": "system", "content": text} for text in texts]
        # A chat has to hold a message.
        found = self.conditioned("chat", {"messages": [*said, {"role": "user", "content": ""}]}, question=question)
        return [message["content"] for message in found["messages"][:-1]]


def recast(copy: T, /, **methods: Callable[..., Any]) -> T:
    """Give an object that is nobody else's yet a subclass of its own class, in which some methods are others.

    The object stays what it was for `isinstance`, for its framework and for what its framework makes of it. The new
    class has the name of the old one.

    Raises:
        ConfigError: the class has no such methods.
    """
    kind = type(copy)
    if missing := sorted(name for name in methods if not hasattr(kind, name)):
        raise ConfigError(
            f"this version of {kind.__module__}.{kind.__qualname__} has no {', '.join(missing)}, by which a prior gets "
            "into its calls: use `with_prior` on its messages, or the proxy (tokenprior serve)"
        )
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "__slots__": ()}
    made = types.new_class(kind.__name__, (kind,), exec_body=lambda body: body.update({**named, **methods}))
    object.__setattr__(copy, "__class__", made)
    return copy


def _read(library: LibraryLike) -> Library:
    match library:
        case Library():
            return library
        case Mapping():
            return Library.from_json(library)
        case str() | os.PathLike():
            return import_library(os.fspath(library))
        case _:
            raise ConfigError(
                "library: expected a Library, the path of a library file, or what `tokenprior export RUN --form json` "
                f"gives, as a mapping; got {type(library).__name__}"
            )

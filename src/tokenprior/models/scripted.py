"""Scripted: a model that says what it is told to. Public, for tests, examples and dry runs of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable

from tokenprior.library import estimate_tokens
from tokenprior.models.base import Reply, Request
from tokenprior.rollout import Usage

Script = Callable[[Request], str | Reply | Awaitable[str | Reply]]


class ScriptedModel:
    """Answers from a list, in the order of the calls, or from a function of the request.

    A list that runs dry raises `AssertionError` at once: a test that asks more than it scripted is wrong.
    """

    def __init__(self, script: Iterable[str | Reply] | Script, *, name: str = "scripted") -> None:
        self._name = name
        self._function = script if callable(script) else None
        self._list = [] if callable(script) else list(script)
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        return self._name

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`."""
        self.requests.append(request)
        said: str | Reply
        if self._function is not None:
            made = self._function(request)
            said = await made if inspect.isawaitable(made) else made
        else:
            assert self._list, f"the script has run dry at call {len(self.requests)}: {request.key}"
            said = self._list.pop(0)
        if isinstance(said, Reply):
            return said
        prompt = sum(estimate_tokens(message.content) for message in request.messages)
        return Reply(text=said, usage=Usage(calls=1, input_tokens=prompt, output_tokens=estimate_tokens(said)))

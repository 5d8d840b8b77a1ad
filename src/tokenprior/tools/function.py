"""Function: a Python function of the user's as a tool."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.source import code_hash, in_thread, is_async, own_fingerprint
from tokenprior.task import Task, content_hash
from tokenprior.text import bounded, shorten
from tokenprior.tools.base import ToolSession, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A function, sync (in a thread) or async; its docstring and types say to a model what it does and takes.

    A parameter called `task` is not the model's: it gets the task at hand. What it gives is a text, or JSON. What it
    raises is told to the model. It runs in this process, with all its rights.

    Attributes:
        function: the function; a config names it as `module:function` or `file.py:function`.
        repeatable: whether a call made again changes nothing outside; see `ToolSpec`.
        output_chars: the most characters of one result.

    Raises:
        ConfigError: its parameters cannot be told to a model.
    """

    function: Callable[..., Any]
    repeatable: bool = False
    output_chars: int = 8_000
    _spec: ToolSpec = field(init=False, repr=False, compare=False)
    _code: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from pydantic_ai import Tool

        if not callable(self.function):
            shown = shorten(repr(self.function), 80)
            raise ConfigError(f"tool function: {shown} is a {type(self.function).__name__}, not a function")
        try:
            told = Tool(_without_task(self.function), takes_ctx=False)
        except Exception as error:  # whatever pydantic finds wrong with its types
            raise ConfigError(
                f"tool function: {self.function!r}: its parameters cannot be told to a model: {error}"
            ) from error
        spec = ToolSpec(
            name=told.name,
            description=told.description or told.name,
            parameters=told.function_schema.json_schema,
            repeatable=self.repeatable,
        )
        object.__setattr__(self, "_spec", spec)
        # Taken now: a later edit of the file changes the file, not the function that is loaded.
        object.__setattr__(self, "_code", code_hash(self.function))

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    @property
    def fingerprint(self) -> str:
        """Covers the file that the function stands in, not what that imports; see `tokenprior.source`."""
        return content_hash(["function", self._code, own_fingerprint(self.function), self.output_chars])

    @asynccontextmanager
    async def session(self, task: Task) -> AsyncIterator[ToolSession]:
        """See `Tool.session`."""
        yield _FunctionSession(tool=self, task=task)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FunctionSession:
    tool: FunctionTool
    task: Task

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """See `ToolSession.call`. Raises whatever the function does."""
        call = self.tool.function
        more = {"task": self.task} if "task" in inspect.signature(call).parameters else {}
        made = await (call(**arguments, **more) if is_async(call) else in_thread(call, **arguments, **more))
        text = made if isinstance(made, str) else json.dumps(made, ensure_ascii=False, default=str)
        return bounded(text, self.tool.output_chars)


def _without_task(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    if "task" not in signature.parameters:
        return function

    @wraps(function)
    def told(**arguments: Any) -> Any:
        raise AssertionError("only its signature is looked at")

    kept = [parameter for name, parameter in signature.parameters.items() if name != "task"]
    told.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # what inspect looks for
    told.__annotations__ = {key: value for key, value in function.__annotations__.items() if key != "task"}
    return told

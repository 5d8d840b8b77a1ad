"""Source: a function of the user's by its name, and a hash of its code.

Covered by the hash is the file that a function stands in, as it was when the hash was taken; not what that file
imports, nor what an object or a closure holds, but for an object's own `fingerprint` if it has one.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import inspect
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenprior.errors import ConfigError
from tokenprior.task import content_hash

_EXPECTED = "expected module:function or path/to/file.py:function"


def load_function(source: str, *, folder: str | Path = ".") -> Callable[..., Any]:
    """From `module:function` or `path/to/file.py:function`. A file's folder is not put on the import path.

    What is loaded need not be callable; the caller says what it expects.

    Args:
        folder: where a file is looked for.

    Raises:
        ConfigError: names what is missing, or why it cannot be imported.
    """
    place, _, name = source.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"function: got {source!r}, {_EXPECTED}")
    module = (
        _load_file(Path(folder) / Path(place).expanduser(), source)
        if place.endswith(".py")
        else _load_module(place, source)
    )
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        there = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise ConfigError(f"function {source!r}: no {name!r} in {place}; it has {there[:8]}")
    return function


def code_hash(call: Callable[..., Any]) -> str:
    """A hash of a callable's name and of the file it stands in."""
    function = inspect.unwrap(call) if inspect.isroutine(call) else type(call)
    name = getattr(function, "__qualname__", repr(function))
    try:
        file = inspect.getsourcefile(function)
        code = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (OSError, TypeError):
        code = ""
    if not code and (compiled := getattr(function, "__code__", None)) is not None:  # typed in, not in a file
        code = hashlib.sha256(compiled.co_code + repr(compiled.co_consts).encode()).hexdigest()
    return content_hash([name, code])


def own_fingerprint(call: Callable[..., Any]) -> str:
    """The fingerprint that an object brings along; empty if it brings none."""
    own = getattr(call, "fingerprint", "")
    return own if isinstance(own, str) else ""


def is_async(call: Callable[..., Any]) -> bool:
    """Whether calling it gives something to wait for."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function of the user's in a thread of its own. What it raises is raised here, `SystemExit` too.

    Not by `asyncio.to_thread`: functions that never end would fill its pool, and the program could not end before them.
    """
    loop = asyncio.get_running_loop()
    # As a value: a future takes no StopIteration, and lets no SystemExit pass it by.
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(ended: tuple[Any, BaseException | None]) -> None:
        if not future.done():
            future.set_result(ended)

    def run() -> None:
        try:
            ended: tuple[Any, BaseException | None] = (function(*arguments, **named), None)
        except BaseException as error:
            ended = (None, error)
        with suppress(RuntimeError):  # the loop is closed, nobody waits any more
            loop.call_soon_threadsafe(settle, ended)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result


def _load_module(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(
            f"function {source!r}: cannot import {name}: {type(error).__name__}: {error}; {_EXPECTED}"
        ) from error


def _load_file(place: Path, source: str) -> ModuleType:
    path = place.resolve()
    if not path.is_file():
        raise ConfigError(f"function {source!r}: no file {path}; {_EXPECTED}")
    # The name holds a hash of the content, so a changed file is read anew in a long-lived process.
    content = path.read_bytes()
    name = "tokenprior_function_" + hashlib.sha256(str(path).encode() + content).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        # Not by an import: a cached .pyc of the same second and size would bring the code from before an edit.
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"function {source!r}: {path} raised {type(error).__name__}: {error}") from error
    return module

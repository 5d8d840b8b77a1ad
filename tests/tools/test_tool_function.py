"""A function of the user's as a tool: what a model is told of it, what it gets, and what its words become."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenprior.errors import ConfigError
from tokenprior.source import load_function
from tokenprior.task import Task
from tokenprior.tools import make_tools
from tokenprior.tools.base import Tool
from tokenprior.tools.function import FunctionTool

TASK = Task(id="t1", question="Where?", metadata={"city": "Ulm"})


def call(tool: Tool, **arguments: Any) -> str:
    async def run() -> str:
        async with tool.session(TASK) as session:
            return await session.call(arguments)

    return asyncio.run(run())


def price(item: str, count: int = 1, *, kind: Literal["net", "gross"] = "net") -> str:
    """What so many of an item cost.

    Args:
        item: its name.
        count: how many.
    """
    return f"{count} {item} {kind}"


def test_docstring_and_types_say_what_it_does_and_takes() -> None:
    spec = FunctionTool(function=price).spec
    assert spec.name == "price"
    assert spec.description.startswith("What so many of an item cost.")
    assert spec.parameters["required"] == ["item"]
    properties = spec.parameters["properties"]
    assert properties["item"]["type"] == "string"
    assert properties["item"]["description"] == "its name."
    assert properties["count"]["type"] == "integer"
    assert properties["kind"]["enum"] == ["net", "gross"]
    assert not spec.repeatable, "unless its owner says so"
    assert not spec.stateful
    assert FunctionTool(function=price, repeatable=True).spec.repeatable


def test_a_text_is_given_as_it_is_and_all_else_as_json() -> None:
    def found(what: str) -> object:
        return {"text": "ü", "list": [1, None], "path": Path("/a")} if what == "all" else None

    assert call(FunctionTool(function=price), item="tea", count=2) == "2 tea net"
    assert call(FunctionTool(function=found), what="all") == '{"text": "ü", "list": [1, null], "path": "/a"}'
    assert call(FunctionTool(function=found), what="none") == "null"


def test_long_results_are_cut_in_the_middle_and_say_so() -> None:
    def much() -> str:
        return "a" * 500 + "b" * 500

    given = call(FunctionTool(function=much, output_chars=90))
    assert given.startswith("a" * 60 + "\n")
    assert given.endswith("b" * 30)
    assert "910 characters left out" in given


def test_the_task_at_hand_is_given_and_no_argument_of_the_models() -> None:
    def where(street: str, task: Task) -> str:
        return f"{street}, {task.metadata['city']}"

    async def later(task: Task) -> str:
        return task.id

    tool = FunctionTool(function=where)
    assert list(tool.spec.parameters["properties"]) == ["street"]
    assert call(tool, street="Main") == "Main, Ulm"
    assert call(FunctionTool(function=later)) == "t1"


def test_a_sync_function_runs_beside_the_loop_and_an_async_one_in_it() -> None:
    here = threading.get_ident()

    def sync() -> bool:
        return threading.get_ident() == here

    async def in_loop() -> bool:
        return threading.get_ident() == here

    class Object:
        """Has a call."""

        async def __call__(self, word: str) -> str:
            return word

    assert call(FunctionTool(function=sync)) == "false"
    assert call(FunctionTool(function=in_loop)) == "true"
    assert call(FunctionTool(function=Object().__call__), word="said") == "said"


def test_what_it_raises_is_raised_for_the_toolbox_to_tell() -> None:
    def broken() -> str:
        raise ValueError("no such street")

    with pytest.raises(ValueError, match="no such street"):
        call(FunctionTool(function=broken))


def test_what_cannot_be_told_to_a_model_is_one_error() -> None:
    class Odd:
        pass

    def odd(thing: Odd) -> str:
        return ""

    with pytest.raises(ConfigError, match="cannot be told to a model"):
        FunctionTool(function=odd)
    with pytest.raises(ConfigError, match="is a int, not a function"):
        FunctionTool(function=3)  # type: ignore[arg-type]


def test_the_fingerprint_covers_the_file_and_what_bounds_the_result(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"

    def made(code: str, **settings: Any) -> str:
        file.write_text(code)
        return FunctionTool(function=load_function("tools.py:say", folder=tmp_path), **settings).fingerprint

    code = "def say(word: str) -> str:\n    return word\n"
    one = made(code)
    assert made(code) == one
    assert len({one, made(code + "# new\n"), made(code, output_chars=10)}) == 3


def test_a_config_names_it_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text('def say(word: str) -> str:\n    "Says."\n    return word + "!"\n')

    def made(**spec: Any) -> Tool:
        (tool,) = asyncio.run(make_tools([{"kind": "function"} | spec], folder=tmp_path))
        return tool

    tool = made(function="tools.py:say", repeatable=True)
    assert tool.spec.repeatable
    assert call(tool, word="hm") == "hm!"
    for spec, words in (
        ({"function": "tools.py:sing"}, "no 'sing' in tools.py; it has"),
        ({"function": "none.py:say"}, "no file"),
        ({"function": "say"}, "expected module:function"),
        ({"function": 3}, "expected module:function"),
        ({}, "function is missing"),
        ({"function": "tools.py:say", "repeatabel": True}, "did you mean 'repeatable'"),
        ({"function": "tools.py:say", "output_chars": "many"}, "output_chars is 'many'"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            made(**spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [StopIteration("at the end"), SystemExit(3)])
def test_what_no_future_takes_is_raised_too(error: BaseException) -> None:
    def ends() -> str:
        raise error

    with pytest.raises((RuntimeError, SystemExit)) as caught:
        call(FunctionTool(function=ends))
    assert error in (caught.value, caught.value.__cause__)


def test_functions_that_never_end_hold_up_neither_others_nor_the_end() -> None:
    held = threading.Event()

    def never() -> None:
        held.wait()

    async def run() -> str:
        async with FunctionTool(function=never).session(TASK) as session:
            waits = [asyncio.ensure_future(session.call({})) for _ in range(100)]
            await asyncio.sleep(0)
            async with FunctionTool(function=price).session(TASK) as other:
                said = await asyncio.wait_for(other.call({"item": "tea"}), 10)
            for one in waits:
                one.cancel()
            return said

    try:
        assert asyncio.run(run()) == "1 tea net"
    finally:
        held.set()


def test_an_edit_while_it_runs_does_not_change_what_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("def say(): return 'first'")
    tool = FunctionTool(function=load_function("tools.py:say", folder=tmp_path))
    before = tool.fingerprint
    file.write_text("def say(): return 'second'")
    assert (tool.fingerprint, call(tool)) == (before, "first")

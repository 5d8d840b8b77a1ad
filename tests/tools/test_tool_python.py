"""The code interpreter as an agent uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tokenprior.errors import ConfigError
from tokenprior.task import Task
from tokenprior.tools.base import ToolSession
from tokenprior.tools.python import PythonTool
from tokenprior.tools.sandbox import LEVELS, active_level, probe
from tokenprior.tools.sandbox_process import Output

TASK = Task(id="t", question="q")


@pytest.fixture(params=[*LEVELS, "none"])
def level(request: pytest.FixtureRequest) -> Any:
    for report in probe():
        if report.name == request.param and not report.usable:
            pytest.skip(f"{report.name}: {report.why}")
    return request.param


def within(tool: PythonTool, use: Callable[[ToolSession], Coroutine[Any, Any, Any]]) -> Any:
    async def session() -> Any:
        async with tool.session(TASK) as python:
            return await use(python)

    return asyncio.run(session())


def results(level: Any, *codes: str, **settings: Any) -> list[str]:
    async def use(python: ToolSession) -> list[str]:
        return [await python.call({"code": code}) for code in codes]

    answer: list[str] = within(PythonTool(level=level, **settings), use)
    return answer


def test_the_value_of_a_last_expression_is_shown_and_variables_stay(level: Any) -> None:
    assert results(level, "x = 20\ndef f(n):\n    return n + 2", "print('so:')\nx + f(20)", "None", "x = 1", "") == [
        "(no output)",
        "so:\n42\n",
        "(no output)",
        "(no output)",
        "(no output)",
    ]


def test_an_error_is_a_result_and_loses_nothing(level: Any) -> None:
    _, error, after, wrong = results(level, "x = 3", "y = x\n1 / 0", "x + y", "for in")
    assert "ZeroDivisionError: division by zero" in error
    assert "line 2" in error
    assert "sandbox" not in error
    assert after == "6\n"
    assert "SyntaxError" in wrong


def test_a_call_over_its_time_begins_anew(level: Any) -> None:
    _, late, after = results(level, "x = 3", "print('begun')\nwhile True: pass", "x", timeout_s=0.5)
    assert late.startswith("begun\n[The interpreter was stopped: it took longer than 0.5 s. All variables are lost;")
    assert "NameError" in after


def test_a_long_output_loses_its_middle_and_says_so(level: Any) -> None:
    (text,) = results(level, "print('a' * 500)\nprint('b' * 1000)\nprint('c' * 500)", output_chars=200)
    assert text.startswith("a" * 100 + "\n[... ")
    assert text.endswith("c" * 99 + "\n")
    assert "about 1803 bytes left out here" in text


def test_many_sessions_side_by_side_keep_apart_and_leave_the_loop_free(level: Any) -> None:
    count = 8 if level == active_level("auto") else 4

    async def one(number: int) -> str:
        async with PythonTool(level=level).session(TASK) as python:
            await python.call({"code": f"x = {number}"})
            await asyncio.sleep(0)
            return await python.call({"code": "x"})

    async def all_of_them() -> tuple[list[str], int]:
        work = asyncio.gather(*(one(number) for number in range(count)))
        turns = 0
        while not work.done():
            await asyncio.sleep(0.001)
            turns += 1
        return await work, turns

    texts, turns = asyncio.run(all_of_them())
    assert texts == [f"{number}\n" for number in range(count)]
    assert turns > count  # it had time for others between the starts


def test_calls_of_one_session_at_the_same_time_wait_for_each_other(level: Any) -> None:
    async def use(python: ToolSession) -> list[str]:
        await python.call({"code": "x = 0"})
        calls = [python.call({"code": "x = x + 1\nx"}) for _ in range(5)]
        return sorted(await asyncio.gather(*calls))

    assert within(PythonTool(level=level), use) == ["1\n", "2\n", "3\n", "4\n", "5\n"]


def test_input_is_closed_and_the_environment_nearly_empty(level: Any) -> None:
    if level == "monty":
        pytest.skip("monty has neither")
    text, names = results(level, "input()", "import os\nsorted(os.environ)")
    assert "EOFError" in text
    assert set(eval(names)) <= {"PATH", "LANG", "HOME", "PWD", "LC_CTYPE", "OMP_NUM_THREADS"}


def test_files_can_be_written_where_it_works_and_are_gone_afterwards(level: Any) -> None:
    if level == "monty":
        pytest.skip("monty has no files")
    code = "with open('a', 'w') as file: file.write('b')\nopen('a').read(), __import__('os').getcwd() != '/'"
    assert results(level, code) == ["('b', True)\n"]
    assert "FileNotFoundError" in results(level, "open('a')")[0]


def test_nothing_is_started_before_the_first_call() -> None:
    async def use(python: ToolSession) -> int:
        return threading.active_count()

    assert within(PythonTool(level="none"), use) <= threading.active_count() + 1


def test_an_interpreter_that_dies_between_calls_is_replaced() -> None:
    first = "import os, threading\nthreading.Timer(0.2, os._exit, (4,)).start()"
    assert "stopped: it ended with code 4" in results("none", first, "import time\ntime.sleep(5)")[1]


def test_auto_is_the_strongest_level_that_works_and_never_none() -> None:
    usable = [report.name for report in probe() if report.usable]
    assert [report.name for report in probe()] == list(LEVELS)
    assert usable
    assert active_level("auto") == usable[0]


def test_a_level_that_does_not_work_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprior.tools import sandbox

    monkeypatch.setattr(sandbox, "_reports", {})
    monkeypatch.setenv("PATH", "/nowhere")
    tool = PythonTool(level="bwrap")
    with pytest.raises(
        ConfigError, match=r"level bwrap does not work here: .*not installed; install bubblewrap"
    ) as error:
        _ = tool.fingerprint
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="does not work here"):
        within(tool, lambda python: python.call({"code": "1"}))


@pytest.mark.parametrize(
    "settings", [{"timeout_s": 0}, {"memory_mb": -1}, {"processes": 0}, {"timeout_s": float("nan")}]
)
def test_a_limit_that_is_no_limit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected more than 0"):
        PythonTool(**settings)


def test_the_fingerprint_knows_settings_and_level() -> None:
    prints = [
        PythonTool(level="none").fingerprint,
        PythonTool().fingerprint,
        PythonTool(timeout_s=19).fingerprint,
        PythonTool(output_chars=7).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert PythonTool(level=active_level("auto")).fingerprint == prints[1]  # type: ignore[arg-type]


def test_the_spec_fits_what_a_call_takes() -> None:
    spec = PythonTool().spec
    assert (spec.name, spec.stateful, spec.repeatable) == ("python", True, True)
    assert spec.parameters["required"] == ["code"]


def test_importing_the_tool_starts_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, tokenprior.tools.python\n"
        "print([name for name in ('sandlock', 'pydantic_monty', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_output_keeps_its_ends_in_bounded_memory(chunk: int) -> None:
    printed, text = Output(100), ("é" * 1000 + "x" * 20_000 + "ü" * 1000).encode()
    for start in range(0, len(text), chunk):
        printed.add(text[start : start + chunk])
    shown = printed.take()
    assert shown.startswith("é" * 50 + "\n[... about ")
    assert shown.endswith("left out here ...]\n" + "ü" * 50)
    assert printed.take() == ""

"""Mathematical equality, and the pool of workers that bounds it. All processes are real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprior.errors import ConfigError
from tokenprior.reward import Reward
from tokenprior.rollout import Rollout
from tokenprior.task import Task
from tokenprior.verifiers import Math
from tokenprior.verifiers.pool import JobFailed, Pool, TookTooLong


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def load_job() -> Callable[[str], object]:
    """For the workers of these tests."""

    def job(what: str) -> object:
        if what == "hang":
            while True:
                time.sleep(0.01)
        if what == "die":
            os._exit(7)
        if what == "raise":
            raise ValueError("no such thing")
        if what == "print":
            sys.stdout.write("noise among the replies\n")
            os.write(1, b"more noise\n")
        if what == "environment":
            return sorted(os.environ)
        return what

    return job


LOADER = "test_verifier_math:load_job"


async def math(verifier: Math, answer: object, output: str) -> Reward:
    rollout = Rollout(task_id="t", index=0, messages=(), output=output)
    return await verifier.verify(Task(id="t", question="q", answer=answer), rollout)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(is_running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.anyio
async def test_plain_numbers_need_no_worker() -> None:
    verifier = Math()
    for answer, output, value in [
        ("3", r"so \boxed{3}", 1.0),
        ("7993", r"\boxed{7,993}", 1.0),
        ("24", r"\boxed{1} no, \boxed{25}", 0.0),
        ("-11520", "The answer is -11520.", 1.0),
        (0.5, r"\boxed{0.50}", 1.0),
    ]:
        assert (await math(verifier, answer, output)).value == value
    assert verifier._pool.worker_pids == []
    assert (await math(verifier, None, "x")).reason == "task has no reference answer"


@pytest.mark.anyio
async def test_expressions_are_compared_by_math_verify() -> None:
    verifier = Math(timeout_s=30)
    for answer, output, value in [
        (r"\frac{1}{2}", r"so \boxed{\frac{2}{4}}", 1.0),
        ("1/2", r"The answer is $\frac{3}{6}$.", 1.0),
        ("x^2+1", r"\boxed{1+x^2}", 1.0),
        ("x^2+1", r"\boxed{1+x^3}", 0.0),
        ("2", "so $x^2$", 0.0),
        (r"\{1,2\}", r"\boxed{\{2,1\}}", 1.0),
        ("3", "no idea", 0.0),
        (["5", r"\sqrt{2}"], r"\boxed{2^{1/2}}", 1.0),
    ]:
        reward = await math(verifier, answer, output)
        assert reward.value == value, (answer, output, reward)
        assert reward.feedback == "Correct." or "Wanted: " in reward.feedback
    pids = verifier._pool.worker_pids
    assert pids
    await verifier.aclose()
    assert wait_until_gone(pids, 5)


@pytest.mark.anyio
async def test_a_hang_is_killed_unscored_and_the_next_one_is_judged() -> None:
    verifier = Math(timeout_s=2)
    reward = await math(verifier, "12", r"\boxed{9^{9^{9^{9}}}}")
    assert (reward.value, reward.reason) == (None, "math-verify took longer than 2 s")
    assert verifier._pool.worker_pids == []
    assert (await math(verifier, "12", r"\boxed{\sqrt{144}}")).value == 1.0
    await verifier.aclose()


def test_a_time_limit_is_above_zero() -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        Math(timeout_s=0)


@pytest.mark.anyio
async def test_the_loop_goes_on_while_a_job_hangs_and_the_hanging_worker_is_killed() -> None:
    pool = Pool(LOADER, size=1)
    assert await pool.run("warm", timeout_s=5) == "warm"
    pids = pool.worker_pids
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    ticking = asyncio.create_task(tick())
    with pytest.raises(TookTooLong):
        await pool.run("hang", timeout_s=0.5)
    ticking.cancel()
    assert ticks >= 5
    assert wait_until_gone(pids, 5)
    assert await pool.run("next", timeout_s=5) == "next"
    await pool.aclose()


@pytest.mark.anyio
async def test_errors_deaths_and_prints_of_a_job_touch_no_other_job() -> None:
    pool = Pool(LOADER, size=2)
    results = await asyncio.gather(
        *(pool.run(what, timeout_s=20) for what in ["a", "raise", "die", "print", "b", "é\ud800\n"]),
        return_exceptions=True,
    )
    assert [str(result) for result in results] == [
        "a",
        "ValueError: no such thing",
        "the worker process died",
        "print",
        "b",
        "é\ud800\n",
    ]
    assert len(pool.worker_pids) <= 2
    await pool.aclose()
    assert pool.worker_pids == []
    assert await pool.run("again", timeout_s=5) == "again"
    await pool.aclose()


@pytest.mark.anyio
async def test_a_worker_that_cannot_load_says_why() -> None:
    pool = Pool("no_such_module:load")
    with pytest.raises(JobFailed, match="did not start: ModuleNotFoundError"):
        await pool.run("a", timeout_s=5)
    await pool.aclose()


@pytest.mark.anyio
async def test_closing_ends_a_job_under_way() -> None:
    pool = Pool(LOADER, size=1)
    await pool.run("warm", timeout_s=5)
    hanging = asyncio.create_task(pool.run("hang", timeout_s=60))
    await asyncio.sleep(0.3)
    await pool.aclose()
    with pytest.raises(JobFailed):
        await hanging


@pytest.mark.anyio
async def test_workers_see_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    pool = Pool(LOADER, size=1)
    seen = await pool.run("environment", timeout_s=5)
    await pool.aclose()
    assert "OPENAI_API_KEY" not in seen


_PARENT = """
import asyncio, sys
sys.path.insert(0, {here!r})
from tokenprior.verifiers.pool import Pool

async def main():
    pool = Pool({loader!r}, size=2)
    await asyncio.gather(pool.run("a", timeout_s=5), pool.run("b", timeout_s=5))
    busy = asyncio.create_task(pool.run("hang", timeout_s=1))
    await asyncio.sleep(0.1)
    print(*pool.worker_pids, flush=True)
    await asyncio.sleep({stay})

asyncio.run(main())
"""


@pytest.mark.parametrize("stay", [60, 0])
def test_no_worker_outlives_its_parent(stay: int) -> None:
    """Killed with kill -9 while one worker is busy, or ended without closing; the script has no main guard."""
    code = _PARENT.format(here=str(Path(__file__).parent), loader=LOADER, stay=stay)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        if stay:
            assert all(is_running(pid) for pid in pids)
            parent.send_signal(signal.SIGKILL)
    assert wait_until_gone(pids, 10)

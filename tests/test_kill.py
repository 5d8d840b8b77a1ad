"""kill -9 anywhere: the same command goes on, ends with the same library, and pays for no finished call again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fake_openai import FakeOpenAI, request_id
from tokenprior.models.base import Phase, Request
from tokenprior.store import open_store

TARGET = Path(__file__).with_name("kill_target.py")
PHASES: tuple[Phase, ...] = ("rollout", "summary", "contrast", "revise")
KILLS = 30

# Starts a run; returns a function that kills it, and one that waits for its exit code.
Start = Callable[[Path, str], tuple[Callable[[], None], Callable[[], int]]]


def start_anew(store: Path, url: str) -> tuple[Callable[[], None], Callable[[], int]]:
    """The whole command, interpreter and imports included."""
    started = subprocess.Popen([sys.executable, str(TARGET), str(store), url])

    def wait() -> int:
        with started:
            return started.wait(60)

    return started.kill, wait


@contextmanager
def forking() -> Iterator[Start]:
    """Processes that have their imports behind them."""
    command = [sys.executable, str(TARGET), "--fork"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        ask, answers = parent.stdin, parent.stdout

        def start(store: Path, url: str) -> tuple[Callable[[], None], Callable[[], int]]:
            ask.write(f"{store} {url}\n")
            ask.flush()
            child = int(answers.readline())
            alive = threading.Lock()
            ended: list[int] = []

            def kill() -> None:
                with alive, suppress(ProcessLookupError):
                    if not ended:
                        # Its parent waits for it at once, so its number may be gone, but hardly be another's already.
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)

            import os

            pidfd = os.pidfd_open(child)

            def wait() -> int:
                code = int(answers.readline())
                with alive:
                    ended.append(code)
                    os.close(pidfd)
                return code

            return kill, wait

        yield start
        ask.close()
        parent.wait(20)


def disturbed(start: Start, store: Path, seed: int, kills: int) -> Counter[str]:
    """Run to the end, killed up to so many times on the way. Returns how often in which phase.

    A kill falls at a random call of a random phase, some milliseconds after it has reached the server: before its
    reply has left, on the way, while it is being written down, or later.
    """
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    timers: list[threading.Timer] = []
    with FakeOpenAI(delay_s=0.004) as server:
        plan = [PHASES[n % 4] if n < 4 else rng.choice(PHASES) for n in range(kills)]
        rng.shuffle(plan)
        while True:
            phase = plan.pop() if plan else None
            left = [rng.randrange(1, {"rollout": 10, "summary": 8, "contrast": 3, "revise": 2}.get(phase or "", 2))]
            wait_s = rng.choice([0.0, 0.0, 0.002, 0.004, 0.006, 0.01, 0.02])
            ready = threading.Event()

            def on_call(
                request: Request,
                phase: str | None = phase,
                left: list[int] = left,
                wait_s: float = wait_s,
                ready: threading.Event = ready,
            ) -> None:
                if request.key.phase == phase:
                    left[0] -= 1
                    if left[0] == 0:
                        ready.wait(10)
                        timers.append(threading.Timer(wait_s, kill))
                        timers[-1].start()

            server.on_call = on_call
            kill, wait = start(store, server.url)
            ready.set()
            code = wait()
            for timer in timers:
                timer.join()
            timers.clear()
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"the run ended by itself with {code}"
            killed[str(phase)] += 1
            assert not store.with_suffix(".json").exists()
        check(server, store)
    return killed


def check(server: FakeOpenAI, store: Path) -> None:
    """What the server saw against what the ledger says."""
    with open_store(store) as opened:
        rows = opened.rows("calls", "r-1")
        spent = opened.open_run("r-1", name="r", kind="learn", config={})
        usage = spent.spent()
        spent.close("done")
    assert {row["state"] for row in rows} <= {"done", "unknown"}
    finished = Counter((row["key"], row["request_hash"]) for row in rows if row["state"] == "done")
    assert set(finished.values()) == {1}, "no call that was finished in the ledger was made again"
    recorded = Counter(
        request_id(row["request"]["messages"], row["request"]["temperature"], row["request"]["seed"]) for row in rows
    )
    assert set(server.seen) <= set(recorded), "nothing left that was not written down before"
    for identity, times in server.seen.items():
        assert times <= recorded[identity], "a call is repeated only if it was in flight at a kill"
    doubts = sum(row["state"] == "unknown" for row in rows)
    repeated = sum(server.seen.values()) - len(finished)
    assert repeated <= doubts
    assert usage.calls == len(rows), "calls in doubt are charged"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = tmp_path_factory.mktemp("undisturbed") / "s.db"
    with forking() as start:
        assert not disturbed(start, store, 0, 0)
    library = store.with_suffix(".json").read_text()
    assert "small letters" in library
    return library


def test_thirty_kills_over_all_phases(tmp_path: Path, undisturbed: str) -> None:
    killed: Counter[str] = Counter()
    with forking() as start:
        for seed in range(1, 20):
            if (left := KILLS - killed.total()) <= 0:
                break
            store = tmp_path / f"{seed}.db"
            killed += disturbed(start, store, seed, min(6, left))
            assert store.with_suffix(".json").read_text() == undisturbed, "byte for byte"
    assert killed.total() == KILLS
    assert set(killed) == set(PHASES)
    assert min(killed.values()) >= 3


def test_the_whole_command_anew(tmp_path: Path, undisturbed: str) -> None:
    store = tmp_path / "s.db"
    killed = disturbed(start_anew, store, 7, 2)
    assert killed.total() == 2
    assert store.with_suffix(".json").read_text() == undisturbed

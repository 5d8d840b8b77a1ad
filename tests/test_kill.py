"""kill -9 anywhere: the same command goes on, ends with the same library, and pays for no finished call again."""

from __future__ import annotations

import os
import random
import re
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
from kill_target import COLD
from tokenprior.models.base import Phase, Request
from tokenprior.store import open_store

TARGET = Path(__file__).with_name("kill_target.py")
PHASES: tuple[Phase, ...] = ("rollout", "summary", "contrast", "revise")
GATED: tuple[Phase, ...] = ("gate", "rollout", "contrast", "revise")
MOST = {"rollout": 8, "summary": 4, "contrast": 2, "revise": 1, "gate": 8}  # from which of its calls a kill is drawn
KILLS = 30
GATED_KILLS = 10

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked and held by pidfd")

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
            pidfd = os.pidfd_open(child)  # it ends only after calls to our server, so the number is still its own
            lock = threading.Lock()
            open_fds = [pidfd]

            def kill() -> None:
                with lock, suppress(ProcessLookupError):
                    for fd in open_fds:
                        signal.pidfd_send_signal(fd, signal.SIGKILL)

            def wait() -> int:
                code = int(answers.readline())
                with lock:
                    os.close(open_fds.pop())
                return code

            return kill, wait

        yield start
        ask.close()
        parent.wait(20)


class Killer:
    """Kills once, some milliseconds after the n-th call of a phase has reached the server: before its reply has left,
    on the way, while it is being written down, or later."""

    def __init__(self, phase: Phase | None, rng: random.Random) -> None:
        self._phase = phase
        self._left = rng.randint(1, MOST.get(phase or "", 1))
        self._wait_s = rng.choice([0.0, 0.0, 0.002, 0.004, 0.006, 0.01, 0.02])
        self._started = threading.Event()
        self._timer: threading.Timer | None = None
        self._kill: Callable[[], None] = lambda: None

    def aim(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._started.set()

    def on_call(self, request: Request) -> None:
        phase = "gate" if request.temperature == COLD else request.key.phase
        self._left -= phase == self._phase
        if self._left == 0 and self._timer is None:
            assert self._started.wait(20)
            self._timer = threading.Timer(self._wait_s, self._kill)
            self._timer.start()

    def finish(self) -> None:
        if self._timer is not None:
            self._timer.join()


def disturbed(start: Start, store: Path, seed: int, kills: int, phases: tuple[Phase, ...] = PHASES) -> Counter[str]:
    """Run to the end, killed up to so many times on the way, in all phases. Returns how often in which."""
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    plan = [phases[n] if n < len(phases) else rng.choice(phases) for n in range(kills)]
    rng.shuffle(plan)
    with FakeOpenAI(delay_s=0.004) as server:
        while True:
            phase = plan.pop() if plan else None
            killer = Killer(phase, rng)
            server.on_call = killer.on_call
            kill, wait = start(store, server.url)
            killer.aim(kill)
            code = wait()
            killer.finish()
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"the run ended by itself with {code}"
            assert not store.with_suffix(".json").exists()
            killed[str(phase)] += 1
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
            killed += disturbed(start, store, seed, min(8, left))
            assert store.with_suffix(".json").read_text() == undisturbed, "byte for byte"
    assert killed.total() == KILLS
    assert set(killed) == set(PHASES)
    assert min(killed.values()) >= 3


def test_kills_in_the_gate_too_end_in_the_same_library_and_the_same_trials(tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    with forking() as start:
        whole = tmp_path / "gated.db"
        assert not disturbed(start, whole, 0, 0, GATED)
        undisturbed = whole.with_suffix(".json").read_text()
        assert '"decision": "ships"' in undisturbed
        assert '"effects": {"G0"' in undisturbed
        for seed in range(1, 20):
            if (left := GATED_KILLS - killed.total()) <= 0:
                break
            store = tmp_path / f"gated-{seed}.db"
            # Every other kill is in the gate.
            killed += disturbed(start, store, seed, min(5, left), ("gate", *GATED[seed % 3 + 1 :], "gate"))
            assert store.with_suffix(".json").read_text() == undisturbed, "byte for byte, levels included"
    assert killed.total() == GATED_KILLS
    assert killed["gate"] >= 4


def test_kills_between_the_attempts_of_adaptive_groups_change_no_decision(tmp_path: Path) -> None:
    phases: tuple[Phase, ...] = ("rollout", "contrast", "rollout", "gate", "rollout")
    with forking() as start:
        whole, store = tmp_path / "gated-adaptive.db", tmp_path / "gated-adaptive-killed.db"
        assert not disturbed(start, whole, 0, 0, phases)
        undisturbed = whole.with_suffix(".json").read_text()
        assert '"resting": {"all_success": ' in undisturbed
        assert re.search(r'"spared": [1-9]', undisturbed)
        killed = disturbed(start, store, 3, 5, phases)
    assert killed["rollout"] >= 2
    assert store.with_suffix(".json").read_text() == undisturbed, "byte for byte, what was spared included"


def test_the_whole_command_anew(tmp_path: Path, undisturbed: str) -> None:
    store = tmp_path / "s.db"
    killed = disturbed(start_anew, store, 7, 2)
    assert killed.total() == 2
    assert store.with_suffix(".json").read_text() == undisturbed

"""Live: progress on a terminal as one moving line, elsewhere as plain lines now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from tokenprior.progress import Progress
from tokenprior.rollout import Usage
from tokenprior.text import many

PLAIN_EVERY_S = 30.0


def money(usage: Usage) -> str:
    """Dollars, or that they are not known."""
    return "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4f}".rstrip("0").rstrip(".")


def tokens(usage: Usage) -> str:
    """Tokens read and written; how many of the first came from a provider's cache, if any did."""
    cached = f" ({_short(usage.cached_tokens)} cached)" if usage.cached_tokens else ""
    return f"{_short(usage.input_tokens)} in{cached} + {_short(usage.output_tokens)} out tokens"


def describe(progress: Progress, left_s: float | None) -> str:
    """One line: what is done, what is left, what it took."""
    parts = [f"step {progress.step}/{progress.steps} {progress.phase}" if progress.step else progress.phase]
    if progress.total:
        parts.append(f"{progress.done}/{progress.total} rollouts")
    if progress.groups:
        parts.append(f"{many(progress.groups, 'group')}, {many(progress.lessons, 'lesson')}")
    if progress.mean is not None:
        parts.append(f"mean reward {progress.mean:.3f}")
    if progress.unscored:
        parts.append(f"{progress.unscored} unscored")
    if progress.failures:
        parts.append("failed: " + ", ".join(f"{count} {kind}" for kind, count in progress.failures.items()))
    if progress.step:
        parts.append(many(progress.experiences, "experience"))
    parts += [tokens(progress.spent), money(progress.spent)]
    if progress.waiting:
        parts.append(progress.waiting)
    elif left_s is not None:
        parts.append(f"about {_duration(left_s)} left in this phase")
    return " · ".join(parts)


class Live:
    """Shows progress on stderr while in its context."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._phase = ("", 0)
        self._phase_began = self._shown = time.monotonic()
        self._pulled = self._waiting = ""

    def __enter__(self) -> Live:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
        if self._waiting and kind is not None:
            print(f"{self._waiting}: it stays there; the same command goes on with it", file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        """Show a snapshot."""
        now = time.monotonic()
        phase = (progress.phase, progress.step)
        fresh = phase != self._phase and progress.phase != "starting"
        sent = bool(progress.waiting) and not self._waiting
        self._waiting = progress.waiting
        if fresh:
            self._phase, self._phase_began = phase, now
        left_s = None
        if 3 <= progress.done < progress.total:
            left_s = (now - self._phase_began) / progress.done * (progress.total - progress.done)
        self._show(describe(progress, left_s), fresh or sent)

    def pulled(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """Show how far the embedded model is fetched."""
        share = f" {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB" if total_bytes else ""
        self._show(f"{what}{share}", what != self._pulled)
        self._pulled = what

    def _show(self, line: str, important: bool) -> None:
        now = time.monotonic()
        if self._status:
            self._status.update(line.replace("[", "\\["))
        elif now - self._shown >= PLAIN_EVERY_S or (important and line):
            self._shown = now
            print(line, file=sys.stderr, flush=True)


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

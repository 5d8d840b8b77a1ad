"""Function: a Python function of the user's, or an agent object of a framework, as an agent.

Order of events: the function is called with the task, without its answer, and the prior; if it asks for a third
argument it gets a seat at the gateway; what it returns is the output. An agent object is run on a seat instead, after
it was made for it if there is a function that makes it.

What is covered: an exception, a wrong result and too long a time are failures of the attempt. What is not: the function
runs in this process with all its rights, and a thread cannot be killed, so what is over its time runs on unheard.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tokenprior.agents.base import AttemptLimits
from tokenprior.agents.frameworks import ACCEPTED, Run, adapt, code_of, framework_of
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.seat import Seat
from tokenprior.errors import ConfigError, TokenpriorError
from tokenprior.models.base import CallFailed, Phase
from tokenprior.prior import TokenPrior
from tokenprior.redact import redact
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.source import code_hash, in_thread, is_async, load_function, own_fingerprint
from tokenprior.task import Task, content_hash
from tokenprior.text import shorten

_Result = tuple[Any, BaseException | None]

_NO_CALL = (
    "it called no model by its seat, so the prior reached none: its models have to be made with seat.base_url and "
    "seat.api_key"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionAgent:
    """Calls a function for each attempt, in a thread of its own unless it is async.

    It is called as `function(task, prior)`, or as `function(task, prior, seat)` if it needs a third argument or has one
    named `seat` or `gateway`. It gives the output, or `(output, messages)` with messages as `Message` or in OpenAI's
    shape. The prior is the function's to use, as `prior.text` or `prior.conditioned(instructions)`; the gateway does
    not add it. A client with `seat.base_url` and `seat.api_key` has its calls recorded, budgeted and limited.

    It may also be an agent object of a framework (`frameworks.adapt`), or a function `make(seat)` that gives one for
    each attempt. Then the gateway adds the prior, and an attempt that makes no call by its seat is a failure.

    Attributes:
        function: the function, any other callable object, or an agent object.
        source: the name it was loaded by.
        code: what tells an agent object from others; `load` takes it from the file that it stands in.
        gateway: for what takes a seat; open while attempts are made.
        limits: of one attempt. `seconds` is wall-clock; the others hold for calls by the seat.
        concurrency: how many are called at once.

    Raises:
        ConfigError: it cannot be called so, or takes a seat and there is no gateway; or an agent object has no `code`,
            or is one that cannot be led to the gateway.
    """

    function: Callable[..., Any]
    source: str = ""
    code: str = ""
    gateway: Gateway | None = None
    limits: AttemptLimits = field(default_factory=AttemptLimits)
    concurrency: int = 32
    _code: str = field(init=False, repr=False, compare=False)
    _takes_seat: bool = field(init=False, repr=False, compare=False)
    _on_seat: Run | None = field(init=False, repr=False, compare=False)
    _slots: asyncio.Semaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = self.source or shorten(repr(self.function), 80)
        framework = framework_of(self.function)
        if framework is None and not callable(self.function):
            raise ConfigError(f"function {name}: is a {type(self.function).__name__}, expected {ACCEPTED}")
        if framework is not None and not self.code:
            raise ConfigError(
                f"function {name}: an agent object is known by the file it stands in: load it from there, or give a "
                "function make(seat)"
            )
        if self.concurrency < 1:
            raise ConfigError(f"agent.concurrency is {self.concurrency}, expected at least 1")
        makes = framework is None and _makes(self.function)
        takes_seat = framework is not None or makes or _takes_seat(self.function, name)
        if takes_seat and self.gateway is None:
            raise ConfigError(f"function {name}: takes a seat at the gateway: name the model it is to lead to")
        on_seat: Run | None = None
        if self.gateway is not None:
            model = self.gateway.model_name
            on_seat = _making(self.function, name, model) if makes else adapt(self.function, name=name, model=model)
        # Taken now: a later edit of the file changes the file, not the function that is loaded.
        object.__setattr__(self, "_code", self.code or code_hash(self.function))
        object.__setattr__(self, "_takes_seat", takes_seat)
        object.__setattr__(self, "_on_seat", on_seat)
        object.__setattr__(self, "_slots", asyncio.Semaphore(self.concurrency))

    @classmethod
    def load(
        cls,
        source: str,
        *,
        folder: str | Path = ".",
        gateway: Gateway | None = None,
        limits: AttemptLimits | None = None,
        concurrency: int = 32,
    ) -> Self:
        """From `module:function` or `path/to/file.py:function`; see `source.load_function`."""
        function = load_function(source, folder=folder)
        return cls(
            function=function,
            source=source,
            code=code_of(source, folder) if framework_of(function) else "",
            gateway=gateway,
            limits=limits or AttemptLimits(),
            concurrency=concurrency,
        )

    @property
    def fingerprint(self) -> str:
        """Covers what `source.code_hash` does, and with a seat what the gateway changes."""
        limits = [self.limits.turns, self.limits.tokens, self.limits.usd]
        seated = [self.gateway.fingerprint, limits] if self._takes_seat and self.gateway else []
        return content_hash(["function-agent", self._code, own_fingerprint(self.function), seated])

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """See `Agent.attempt`.

        Raises:
            TokenpriorError: as the function raised it, or as one of its calls by the seat met it.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slots)
            seat: Seat | None = None
            if self._takes_seat and self.gateway is not None:
                # A function has the prior itself, and two would be one too many.
                added = prior if self._on_seat else TokenPrior()
                opened = self.gateway.seat(task, added, phase=phase, step=step, index=index, limits=self.limits)
                seat = await stack.enter_async_context(opened)
            started = time.monotonic()
            ended = await self._ended(task, prior, seat)
            seconds = time.monotonic() - started
            if seat is not None and seat.fatal is not None:
                raise seat.fatal
            return self._rollout(task, index, seat, ended, seconds)

    async def _ended(self, task: Task, prior: TokenPrior, seat: Seat | None) -> _Result | None:
        """What the function gave or raised; `None` if it took too long or the run has to stop."""
        known = replace(task, answer=None)
        if self._on_seat is not None:
            work = asyncio.ensure_future(_called(self._on_seat, (known, seat)))
        else:
            work = asyncio.ensure_future(_called(self.function, (known, prior, *([seat] if seat else []))))
        waits: set[asyncio.Future[Any]] = {work}
        if seat is not None:
            waits.add(asyncio.ensure_future(seat.stopped()))
        try:
            await asyncio.wait(waits, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            for one in waits:
                one.cancel()
            await asyncio.wait(waits, timeout=2.0)  # a function may take a cancellation for an error to survive

    def _rollout(self, task: Task, index: int, seat: Seat | None, ended: _Result | None, seconds: float) -> Rollout:
        output, failure = "", None
        messages: tuple[Message, ...] = ()
        if ended is None:
            failure = Failure(kind="timeout", detail=f"the function took longer than {self.limits.seconds:g} s")
        elif ended[1] is None:
            output, messages, failure = _given(ended[0])
            if self._on_seat is not None and seat is not None and not (seat.turns or seat.limit_reached):
                output, failure = "", Failure(kind="agent", detail=_NO_CALL)
        else:
            failure = _raised(ended[1])
        stop = StopReason.FAILED if failure else StopReason.DONE
        if seat is not None and seat.limit_reached and ended is not None and (ended[1] is not None or not failure):
            failure, stop = None, StopReason.LIMIT
        said = (
            Message(role="user", content=task.question, images=task.images),
            *([] if failure else [Message(role="assistant", content=output)]),
        )
        asked = seat is not None and seat.turns > 0
        return Rollout(
            task_id=task.id,
            index=index,
            messages=messages or (seat.messages if seat else ()) or said,
            output=output,
            stop=stop,
            failure=failure,
            usage=seat.usage if seat else Usage(),
            latency_s=seat.at_work_s if seat and asked else seconds,
            metadata={"seconds": round(seconds, 3)}
            | ({"turns": seat.turns, "exchanges": len(seat.exchanges)} if seat else {}),
        )


def _makes(function: Callable[..., Any]) -> bool:
    """Whether it is called as `make(seat)`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    return next(iter(signature.parameters), "") == "seat" and _fits(signature, 1)


def _making(make: Callable[..., Any], name: str, model: str) -> Run:
    async def run(task: Task, seat: Seat) -> str:
        made, error = await _called(make, (seat,))
        if error is not None:
            raise error
        on_seat = adapt(made, name=name, model=model, seated=True)
        if on_seat is None:
            raise ConfigError(f"function {name}: gave a {type(made).__name__}, expected an agent of a known framework")
        return await on_seat(task, seat)

    return run


def _takes_seat(function: Callable[..., Any], name: str) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in callables have none
        return False
    if _fits(signature, 2):
        third = list(signature.parameters.values())[2:3]
        return any(one.name in ("seat", "gateway") and one.kind is one.POSITIONAL_OR_KEYWORD for one in third)
    if _fits(signature, 3):
        return True
    raise ConfigError(f"function {name}: cannot be called as (task, prior), (task, prior, seat) or (seat)")


def _fits(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


async def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Result:
    # Caught in here: a SystemExit that leaves a task ends the program.
    try:
        if is_async(function):
            return await function(*arguments), None
        result = await in_thread(function, *arguments)
        return (await result if inspect.isawaitable(result) else result), None
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        current = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
            raise
        return None, error


def _raised(error: BaseException) -> Failure:
    if isinstance(error, TokenpriorError):
        raise error
    if isinstance(error, CallFailed):
        return Failure(kind=error.kind, detail=error.detail)
    return Failure(kind="agent", detail=shorten(redact(f"{type(error).__name__}: {error}"), 300))


def _given(result: Any) -> tuple[str, tuple[Message, ...], Failure | None]:
    """The output and the messages of what a function gave."""
    output, messages = result if isinstance(result, tuple) and len(result) == 2 else (result, ())
    if not isinstance(output, str):
        words = f"the function gave a {type(output).__name__}, expected a text, or a text and its messages"
        return "", (), Failure(kind="agent", detail=words)
    try:
        read = tuple(one if isinstance(one, Message) else Message.from_json(one) for one in messages)
    except (ValueError, TypeError) as error:
        return "", (), Failure(kind="agent", detail=shorten(redact(f"messages of the function: {error}"), 300))
    return output, read, None

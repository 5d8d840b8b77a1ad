"""The MCP server: libraries as resources and prompts, and tools with which a coding agent learns from its own work.

Resources: `tokenprior://NAME` is the prior of a library word for word, `tokenprior://NAME/json` all of it, and
`tokenprior://NAME/G3` one lesson with its effect and the attempts behind it. A prompt of the name of each library gives
its prior, or what of it concerns a task. The tools read lessons, record attempts and ask for a learning step.

What a client sends is data: bounded, masked where it is kept, and no lesson of it passes that the guards would refuse
elsewhere. What goes wrong is told to the agent in one line and ends nothing. Standard output belongs to the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from socket import socket
from typing import Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.exceptions import FastMCPError, ResourceError, ToolError, ValidationError
from fastmcp.prompts import Prompt
from fastmcp.resources import Resource
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import ToolResult
from mcp_types import (
    CallToolRequestParams,
    PromptArgument,
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ToolAnnotations,
)
from pydantic import Field
from pydantic import ValidationError as Invalid
from starlette.datastructures import Headers
from starlette.middleware import Middleware as ASGIMiddleware
from starlette.responses import PlainTextResponse

from tokenprior import __version__
from tokenprior.agents.seat import Refused
from tokenprior.cli.live import describe
from tokenprior.errors import TokenpriorError
from tokenprior.experience import one_line
from tokenprior.progress import OnProgress, Progress
from tokenprior.redact import redact
from tokenprior.serve.libraries import ServedLibrary
from tokenprior.serve.mcp.attempts import MOST_FEEDBACK, MOST_TASK, MOST_TEXT, Attempt
from tokenprior.serve.mcp.desk import Desk, Kept, ReadLessons
from tokenprior.serve.mcp.learning import Learned
from tokenprior.serve.proxy.access import Access
from tokenprior.text import shorten

_log = logging.getLogger(__name__)

MOST_LESSONS = 8
TELL_EVERY_S = 1.0

INSTRUCTIONS = """\
Lessons from experience, and a way to add to them. Before a task, call read_lessons with the task and follow the \
lessons whose condition fits. After an attempt whose quality you know (tests passed, a check failed, the user was \
content or not), call record_attempt: give every attempt at one task the same `task` name, and say in `feedback` what \
was wrong. Attempts of different quality at one task are what lessons are drawn from; call learn once there are some."""

Task = Annotated[str, Field(description="The task at hand, in words.", max_length=MOST_TASK)]
Name = Annotated[str | None, Field(description="Which library; the first by default.")]


def make_server(desk: Desk) -> FastMCP[Any]:
    """The server over a desk."""
    server: FastMCP[Any] = FastMCP("tokenprior", instructions=INSTRUCTIONS, version=__version__, on_duplicate="replace")
    _add_lessons(server, desk)
    _add_reading(server, desk)
    _add_learning(server, desk)
    server.add_middleware(_Plain())
    server.add_middleware(_Listed(server, desk))
    return server


async def serve(desk: Desk, *, listening: socket | None = None, keys: Sequence[bytes] = ()) -> None:
    """Serve until the client goes, or, on a port, until told to stop. Newer versions are taken meanwhile.

    Args:
        listening: on loopback, for HTTP; `None` is standard input and output.
        keys: one of them is asked of every request over HTTP.
    """
    server = make_server(desk)
    watching = asyncio.ensure_future(desk.libraries.watch(_reloaded))
    try:
        if listening is None:
            await server.run_stdio_async(show_banner=False, log_level="WARNING")
        else:
            guard = ASGIMiddleware(_KeysAsked, access=Access(client_keys=tuple(keys)))
            await server.run_http_async(
                show_banner=False, host="127.0.0.1", log_level="WARNING", middleware=[guard], sockets=[listening]
            )
    finally:
        watching.cancel()


def _reloaded(library: ServedLibrary, error: TokenpriorError | None) -> None:
    if error:
        _log.warning("library %s: version %s stays: %s", library.name, library.version, redact(str(error)))


def _add_lessons(server: FastMCP[Any], desk: Desk) -> None:
    @server.resource(
        "tokenprior://{name}/{identity}",
        name="lesson",
        description="One lesson, such as G3: its effect, and the attempts behind it.",
        mime_type="text/markdown",
    )
    async def lesson(name: str, identity: str) -> str:
        with _told_as(ResourceError):
            return await asyncio.to_thread(desk.lesson, name, identity)


def _add_reading(server: FastMCP[Any], desk: Desk) -> None:
    @server.tool(annotations=ToolAnnotations(title="Read lessons", read_only_hint=True, open_world_hint=False))
    async def read_lessons(
        task: Task,
        library: Name = None,
        most: Annotated[int, Field(description="The most lessons to give.", ge=1, le=50)] = MOST_LESSONS,
    ) -> ReadLessons:
        """Read the lessons that concern a task, with ids and effects. Call it before you begin."""
        with _told_as(ToolError):
            return desk.lessons(task, library, most)


def _add_learning(server: FastMCP[Any], desk: Desk) -> None:
    @server.tool(annotations=ToolAnnotations(title="Record an attempt", destructive_hint=False, open_world_hint=False))
    async def record_attempt(
        task: Annotated[
            str,
            Field(
                description="The task: its name, the same for every attempt at it, or its text if that is short.",
                max_length=MOST_TASK,
            ),
        ],
        output: Annotated[str, Field(description="What came of the attempt.", max_length=MOST_TEXT)],
        reward: Annotated[
            float, Field(description="How good that is; 1 is a success, 0 a failure, or any other number.")
        ],
        library: Name = None,
        feedback: Annotated[
            str, Field(description="What a check or the user said of it.", max_length=MOST_FEEDBACK)
        ] = "",
        messages: Annotated[
            list[dict[str, Any]] | None,
            Field(description="How the attempt went, as messages of the OpenAI chat API, tool calls included."),
        ] = None,
        question: Annotated[
            str, Field(description="The text of the task, once, if `task` is only its name.", max_length=MOST_TEXT)
        ] = "",
    ) -> Kept:
        """Keep an attempt with its reward, to learn from. Says what is still needed before there is something to
        learn."""
        with _told_as(ToolError):
            attempt = Attempt(
                task=task,
                output=output,
                reward=reward,
                feedback=feedback,
                messages=tuple(messages or ()),
                question=question,
            )
            return await desk.record(attempt, library)

    @server.tool(
        annotations=ToolAnnotations(title="Learn", destructive_hint=False, idempotent_hint=True, open_world_hint=True)
    )
    async def learn(context: Context, library: Name = None) -> Learned:
        """Take a learning step over the attempts recorded since the last one. It may take minutes and tells its
        progress; after a break the same call goes on, and nothing is paid for twice."""
        with _told_as(ToolError):
            async with _telling(context) as progress:
                return await desk.learn(library, progress)


@contextlib.asynccontextmanager
async def _telling(context: Context) -> AsyncIterator[OnProgress]:
    """Tells the client how a verb gets on, now and every second: clients give up on calls that say nothing."""
    latest = Progress()

    def take(progress: Progress) -> None:
        nonlocal latest
        latest = progress

    async def tell() -> None:
        for number in itertools.count(1):
            await context.report_progress(number, message=describe(latest, None))
            await asyncio.sleep(TELL_EVERY_S)

    telling = asyncio.ensure_future(tell())
    try:
        yield take
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)  # a client that has gone is told nothing


@contextlib.contextmanager
def _told_as(kind: type[FastMCPError]) -> Iterator[None]:
    """Errors for the agent: one line each. What we did not raise on purpose is a fault of ours, and goes to the log."""
    try:
        yield
    except TokenpriorError as error:
        raise kind(redact(one_line(str(error))), log_level=logging.DEBUG) from error
    except Exception as error:
        _log.error(redact(traceback.format_exc()))
        words = shorten(redact(str(error)), 200)
        raise kind(f"a fault of the server: {type(error).__name__}: {words}", log_level=logging.DEBUG) from error


class _Plain(Middleware):
    """Arguments that do not fit are told in one line, too."""

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        try:
            return await call_next(context)
        except ValidationError as error:
            raise ToolError(_problem(error), log_level=logging.DEBUG) from error


def _problem(error: ValidationError) -> str:
    cause = error.__cause__
    if not isinstance(cause, Invalid):
        return shorten(redact(str(error)), 300)
    first = cause.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "arguments"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"


class _Listed(Middleware):
    """Lists every library as it stands, and tells clients when one has changed."""

    def __init__(self, server: FastMCP[Any], desk: Desk) -> None:
        self._server, self._desk = server, desk
        self._listed: dict[str, str] = {}
        self._list()

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        before = self._list()
        result = await call_next(context)
        if (self._list() or before) and context.fastmcp_context is not None:
            # A client without a session hears of it on the stream of its own request alone.
            for news in (ResourceListChangedNotification(), PromptListChangedNotification()):
                await context.fastmcp_context.send_notification(news)
        return result

    def _list(self) -> bool:
        """Put what changed on the lists; whether something did."""
        every = self._desk.libraries.by_name
        changed = [name for name, served in every.items() if self._listed.get(name) != served.version]
        for name in changed:
            self._listed[name] = every[name].version
            self._add(every[name])
        return bool(changed)

    def _add(self, served: ServedLibrary) -> None:
        desk, name = self._desk, served.name
        count = len(served.library)
        what = f"{'1 lesson' if count == 1 else f'{count} lessons'}, version {served.version}"

        async def whole() -> str:
            return desk.prior(name, "", MOST_LESSONS)

        async def everything() -> str:
            return desk.named(name).library.dumps()

        async def prompt(task: str = "") -> str:
            return desk.prior(name, task, MOST_LESSONS)

        for function, place, form in ((whole, "", "text/markdown"), (everything, "/json", "application/json")):
            resource = Resource.from_function(
                function,
                uri=f"tokenprior://{name}{place}",
                name=f"{name}{place}",
                description=what,
                mime_type=form,
            )
            self._server.add_resource(resource)
        made = Prompt.from_function(prompt, name=name, description=f"The lessons of {name}: {what}.")
        task_argument = PromptArgument(name="task", description="Give only what concerns this task.", required=False)
        self._server.add_prompt(made.model_copy(update={"arguments": [task_argument]}))


class _KeysAsked:
    """Lets requests in that name this machine and bear a key."""

    def __init__(self, app: Any, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                self._access.admit(Headers(scope=scope))
            except Refused as refused:
                await PlainTextResponse(str(refused), status_code=refused.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

"""Agent settings: the kinds of agent that a config can name, each with what it needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from tokenprior.settings import Count, Settings


def _asks(template: str) -> str:
    if "{question}" not in template:
        raise ValueError("must contain {question}, or the task is never asked")
    return template


Template = Annotated[str, AfterValidator(_asks)]


class LimitSettings(Settings):
    """What one attempt may take; see `AttemptLimits`."""

    turns: Count = 20
    tokens: Count | None = None
    seconds: Annotated[float, Field(gt=0)] = 600.0
    usd: Annotated[float, Field(gt=0)] | None = None


class ChatSettings(Settings):
    """A plain model, one prompt and one reply; see `ChatAgent`."""

    kind: Literal["chat"] = "chat"
    model: str
    instructions: str = ""
    template: Template = "{question}"
    max_tokens: Count = 1_024
    timeout_s: Annotated[float, Field(gt=0)] = 300.0


class ToolsSettings(Settings):
    """A model with tools; see `ReactAgent`.

    Attributes:
        tools: each a `kind` with the settings of that kind; see `make_tools`.
        calls: `native`, `fenced`, or `None`: fenced for the embedded model, native for all others.
        max_tokens: of one turn.
        concurrency: the most attempts at once; each may hold an interpreter or a server of its own.
    """

    kind: Literal["tools"]
    model: str
    tools: tuple[dict[str, Any], ...]
    instructions: str = ""
    template: Template = "{question}"
    calls: Literal["native", "fenced"] | None = None
    max_tokens: Count = 2_048
    limits: LimitSettings = LimitSettings()
    concurrency: Count = 32

    @field_validator("tools", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"kind": one} if isinstance(one, str) else one for one in value]


class FunctionSettings(Settings):
    """A Python function; see `FunctionAgent`.

    Attributes:
        function: `module:function` or `file.py:function`, relative to the config file.
        model: what the function's gateway leads to, if it takes one.
    """

    kind: Literal["function"]
    function: str
    model: str | None = None
    instructions: Literal[""] = ""
    limits: LimitSettings = LimitSettings()


class ProgramSettings(Settings):
    """Any program; see `ProgramAgent`.

    Attributes:
        command: the program and its arguments; relative to the config file's folder, where it runs.
        model: what its calls lead to; with `*` for the model's name, whatever the program asks for.
        pass_env: names of variables with secrets that the program gets all the same.
        concurrency: the most programs at once.
    """

    kind: Literal["program"]
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    model: str
    instructions: Literal[""] = ""
    limits: LimitSettings = LimitSettings()
    pass_env: tuple[str, ...] = ()
    concurrency: Count = 16


class WorkerSettings(Settings):
    """Where rollouts are made, if not by the driver itself; see `agents.ray`. It changes nothing that comes of a run,
    so a run that was begun in one place goes on in another.

    Attributes:
        address: `HOST:PORT` of a Ray cluster that this machine is a node of, `auto` to look for it, `local` for one on
            this machine that begins and ends with the run.
        actors: how many workers, each with a CPU; as many as the cluster has CPUs if not given.
        attempts: that are on one worker at once.
        host: the driver's address, as the nodes reach it; that by which Ray knows it if not given.
        send_folder: whether the config's folder is sent to the workers, which else have to find the same files under
            the same path.
        patience_s: seconds that the run waits while there is no worker at all.
    """

    kind: Literal["ray"] = "ray"
    address: Annotated[str, Field(pattern=r"^(auto|local|[^/\s]+:\d+)$")] = "auto"
    actors: Count | None = None
    attempts: Count = 32
    host: str | None = None
    send_folder: bool = False
    patience_s: Annotated[float, Field(gt=0)] = 600.0


AgentSettings = ChatSettings | ToolsSettings | FunctionSettings | ProgramSettings

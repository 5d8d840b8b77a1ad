"""Live: what is open while a verb runs: agents, tools, models and the verifier, made out of a config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import assert_never

from tokenprior.agent_settings import (
    ChatSettings,
    FunctionSettings,
    LimitSettings,
    ProgramSettings,
    ToolsSettings,
)
from tokenprior.agents.base import Agent, AttemptLimits
from tokenprior.agents.chat import ChatAgent
from tokenprior.agents.frameworks import code_of, framework_of
from tokenprior.agents.function import FunctionAgent
from tokenprior.agents.gateway import Gateway
from tokenprior.agents.logged import LoggedAgent
from tokenprior.agents.program import ProgramAgent, named_files
from tokenprior.agents.react import ReactAgent
from tokenprior.config import Config
from tokenprior.logs import LoggedTask
from tokenprior.models.base import Model
from tokenprior.models.connect import Connections, is_embedded
from tokenprior.progress import Tracker
from tokenprior.source import code_hash, load_function, own_fingerprint
from tokenprior.store import RunStore
from tokenprior.task import Split
from tokenprior.tools import Tool
from tokenprior.verifiers import asks_a_model, make_verifier
from tokenprior.verifiers.base import Verifier


class Live:
    """The live pieces of a run. Use as an async context manager.

    Attributes:
        learner: the learning model.
        logged: the agent of the logs, where there are any.
        stopped: why the verb ended early, if it did.
    """

    learner: Model
    verifier: Verifier
    tracker: Tracker

    def __init__(
        self,
        config: Config,
        record: RunStore,
        connections: Connections,
        split: Split,
        logged: Sequence[LoggedTask],
        tools: Sequence[Tool],
    ) -> None:
        self._config, self.record, self._connections = config, record, connections
        self._split, self._logged, self._tools = split, logged, tuple(tools)
        self._stack = AsyncExitStack()
        self.logged = LoggedAgent(logged) if logged else None
        self.stopped: str | None = None

    async def __aenter__(self) -> Live:
        config, connect = self._config, self._connections.model
        self.learner = await connect(config.learning_model)
        judges = asks_a_model(config.verifier)
        judge = await connect(config.judge or config.learning_model) if judges else None
        self.verifier = make_verifier(
            config.verifier, model=judge, tasks=self._split.every, folder=config.folder, logged=self._logged
        )
        if close := getattr(self.verifier, "aclose", None):
            self._stack.push_async_callback(close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def agent(self, temperature: float, seed: int) -> Agent:
        """The agent of the config, at a temperature.

        Raises:
            ConfigError: a setting is wrong, or what it needs is not there.
            ModelError: its endpoint refuses.
        """
        settings = self._config.agent
        match settings:
            case ChatSettings():
                return ChatAgent(
                    model=await self._connections.model(settings.model),
                    instructions=settings.instructions,
                    template=settings.template,
                    temperature=temperature,
                    max_tokens=settings.max_tokens,
                    timeout_s=settings.timeout_s,
                    seed=seed,
                )
            case ToolsSettings():
                return ReactAgent(
                    model=await self._connections.model(settings.model),
                    tools=self._tools,
                    ledger=self.record,
                    instructions=settings.instructions,
                    template=settings.template,
                    calls=settings.calls or ("fenced" if is_embedded(settings.model) else "native"),
                    temperature=temperature,
                    max_tokens=settings.max_tokens,
                    limits=_limits(settings.limits),
                    concurrency=settings.concurrency,
                    seed=seed,
                )
            case FunctionSettings():
                gateway = await self._gateway(settings.model, temperature, seed) if settings.model else None
                return FunctionAgent.load(
                    settings.function, folder=self._config.folder, gateway=gateway, limits=_limits(settings.limits)
                )
            case ProgramSettings():
                return ProgramAgent(
                    command=settings.command,
                    folder=self._config.folder,
                    gateway=await self._gateway(settings.model, temperature, seed),
                    limits=_limits(settings.limits),
                    pass_env=settings.pass_env,
                    concurrency=settings.concurrency,
                )
            case _:
                assert_never(settings)

    async def _gateway(self, name: str, temperature: float, seed: int) -> Gateway:
        model = await self._connections.forward(name)
        asked = name.partition("#" if "://" in name else ":")[2] or name  # a model's own name may hold a colon
        gateway = Gateway(model=model, model_name=asked, temperature=temperature, seed=seed)
        return await self._stack.enter_async_context(gateway)


def code_of_agent(config: Config, tools: Sequence[Tool]) -> list[object]:
    """What an agent does that its settings do not say: hashes of its tools, its function or the files of its program.

    Raises:
        ConfigError: its function cannot be loaded.
    """
    match config.agent:
        case ToolsSettings():
            return [tool.fingerprint for tool in tools]
        case FunctionSettings(function=source):
            function = load_function(source, folder=config.folder)
            code = code_of(source, config.folder) if framework_of(function) else code_hash(function)
            return [code, own_fingerprint(function)]
        case ProgramSettings(command=command):
            return [*named_files(command, config.folder)]
        case _:
            return []


def _limits(settings: LimitSettings) -> AttemptLimits:
    return AttemptLimits(**settings.model_dump())

"""Live: what is open while a verb runs: agents, tools, models and the verifier, made out of a config."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

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
from tokenprior.tools import Tool, make_tools
from tokenprior.tools.base import ToolLedger
from tokenprior.verifiers import asks_a_model, make_verifier
from tokenprior.verifiers.base import Verifier

if TYPE_CHECKING:
    from tokenprior.agents.ray import Actors


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
        self._actors: Actors | None = None
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
        """The agent of the config, at a temperature; where the config has workers, its attempts are made there.

        Raises:
            ConfigError: a setting is wrong, or what it needs is not there.
            ModelError: its endpoint refuses.
        """
        model = await self._model()
        agent = await make_agent(
            self._config,
            self._tools,
            model=model,
            ledger=self.record,
            stack=self._stack,
            temperature=temperature,
            seed=seed,
        )
        if self._config.workers is None:
            return agent
        from tokenprior.agents.ray import RayAgent

        if self._actors is None:
            self._actors = await self._stack.enter_async_context(actors(self._config, model, self.record))
        return RayAgent(agent=agent, actors=self._actors, made_of=(temperature, seed))

    async def _model(self) -> Model | None:
        """What the agent asks; a function may ask none."""
        settings = self._config.agent
        if settings.model is None:
            return None
        by_program = isinstance(settings, ProgramSettings | FunctionSettings)
        open_model = self._connections.forward if by_program else self._connections.model
        return await open_model(settings.model)


async def tools_of(config: Config) -> tuple[Tool, ...]:
    """The tools of a config's agent.

    Raises:
        ConfigError, DataError: as `make_tools`.
    """
    settings = config.agent
    return await make_tools(settings.tools, folder=config.folder) if isinstance(settings, ToolsSettings) else ()


async def make_agent(
    config: Config,
    tools: Sequence[Tool],
    *,
    model: Model | None,
    ledger: ToolLedger,
    stack: AsyncExitStack,
    temperature: float,
    seed: int,
) -> Agent:
    """The agent of a config.

    Args:
        tools: what `tools_of` gives.
        model: what it asks, for functions and programs one that takes requests with a body; `None` for a function that
            asks none.
        stack: closes what the agent needs open.

    Raises:
        ConfigError: a setting is wrong, or what it needs is not there.
    """
    settings = config.agent

    async def gateway(name: str) -> Gateway:
        assert model is not None
        asked = name.partition("#" if "://" in name else ":")[2] or name  # a model's own name may hold a colon
        made = Gateway(model=model, model_name=asked, temperature=temperature, seed=seed)
        return await stack.enter_async_context(made)

    match settings:
        case ChatSettings():
            assert model is not None
            return ChatAgent(
                model=model,
                instructions=settings.instructions,
                template=settings.template,
                temperature=temperature,
                max_tokens=settings.max_tokens,
                timeout_s=settings.timeout_s,
                seed=seed,
            )
        case ToolsSettings():
            assert model is not None
            return ReactAgent(
                model=model,
                tools=tuple(tools),
                ledger=ledger,
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
            return FunctionAgent.load(
                settings.function,
                folder=config.folder,
                gateway=await gateway(settings.model) if settings.model else None,
                limits=_limits(settings.limits),
            )
        case ProgramSettings():
            return ProgramAgent(
                command=settings.command,
                folder=config.folder,
                gateway=await gateway(settings.model),
                limits=_limits(settings.limits),
                pass_env=settings.pass_env,
                concurrency=settings.concurrency,
            )
        case _:
            assert_never(settings)


def actors(config: Config, model: Model | None, ledger: ToolLedger) -> Actors:
    """The workers of a config, and the desk to which they come.

    Args:
        model, ledger: what they ask.

    Raises:
        MissingExtra: Ray is not installed.
    """
    from tokenprior.agents.ray import Actors, Cluster, MakeActor, connected, require_ray

    settings = config.workers
    assert settings is not None
    require_ray()
    folder, sent = config.folder.resolve(), settings.send_folder

    async def start(cluster: Cluster, stack: AsyncExitStack) -> tuple[MakeActor, int]:
        from tokenprior.models.desk import Desk
        from tokenprior.worker import Worker

        # Closed before the actors are: what is asked for while they end would be paid for and not used.
        desk = await stack.enter_async_context(Desk(model, ledger, host=settings.host or cluster.host))
        # The address of a store may hold a password, and no worker opens it.
        there = config.model_copy(update={"folder": Path() if sent else folder, "store": ""})
        arguments = (there, (desk.address, desk.token), model.name if model else "")
        return cluster.maker(Worker, arguments, room=settings.attempts), settings.actors or max(1, cluster.cpus)

    store = Path(config.store).name  # holds all prompts and replies, and grows while it is sent
    cluster = connected(settings.address, folder=folder if sent else None, but=[f"{store}*"])
    return Actors(cluster, start, room=settings.attempts, patience_s=settings.patience_s)


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

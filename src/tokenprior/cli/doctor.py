"""tokenprior doctor"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprior.cli.setting import Set, configured

if TYPE_CHECKING:
    from tokenprior.config import Config


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML config, to check its tasks, verifier and models.")
    ] = None,
    changes: Set = None,
) -> None:
    """Say what is installed, what is missing, and whether a config's data and endpoints answer."""
    import importlib.util
    import platform
    import sys

    from tokenprior import __version__
    from tokenprior.models.catalog import CATALOG
    from tokenprior.models.pull import find_here
    from tokenprior.tools.sandbox import probe

    print(f"tokenprior {__version__}, Python {platform.python_version()}, {sys.platform}")
    for package, extra, what in (
        ("xllamacpp", "local", "embedded model"),
        ("math_verify", "math", "math verifier"),
        ("markdownify", "web", "pages as text"),
        ("fastmcp", "mcp", "MCP servers"),
        ("datasets", "hf", "Parquet and data sets of the hub"),
    ):
        found = importlib.util.find_spec(package) is not None
        print(f"{what}: {'installed' if found else f'missing, pip install tokenprior[{extra}]'}")
    for model in CATALOG.values():
        print(f"embedded:{model.name}: {find_here(model) or 'not fetched (tokenprior models pull)'}")
    for level in probe():
        print(f"code sandbox {level.name}: {'usable' if level.usable else f'not usable, {level.why}'}")
    if config is not None:
        _check(configured(config, changes))


def _check(config: Config) -> None:
    import asyncio

    from tokenprior.config import leaves_open
    from tokenprior.errors import TokenpriorError
    from tokenprior.models.base import CallFailed
    from tokenprior.session import read_logs, read_tasks
    from tokenprior.verifiers import asks_a_model, make_verifier

    logged = read_logs(config)
    split = read_tasks(config, logged)
    print(f"tasks: {len(split.practice)} practice, {len(split.gate)} gate, {len(split.held_out)} held out")
    if not asks_a_model(config.verifier):
        make_verifier(config.verifier, tasks=split.every, folder=config.folder, logged=logged)
        print(f"verifier: {config.verifier['kind']}")
    for line in asyncio.run(_agent(config)):
        print(line)
    failed = False
    for name in dict.fromkeys(filter(None, (config.agent.model, config.learner, config.judge))):
        if leaves_open(name):
            print(f"model {name}: not asked, for only the program says which one it wants")
            continue
        try:
            print(f"model {name}: {asyncio.run(_ask(name, config))}")
        except (CallFailed, TokenpriorError) as error:
            failed = True
            print(f"model {name}: {error}")
    if failed:
        raise typer.Exit(1)


async def _agent(config: Config) -> list[str]:
    """What the agent needs beside its model, one line each.

    Raises:
        ConfigError: it is not there.
    """
    import shutil

    from tokenprior.agent_settings import FunctionSettings, ProgramSettings, ToolsSettings
    from tokenprior.agents.function import FunctionAgent
    from tokenprior.agents.gateway import Gateway
    from tokenprior.errors import ConfigError
    from tokenprior.models.scripted import ScriptedModel
    from tokenprior.tools import make_tools
    from tokenprior.tools.python import PythonTool
    from tokenprior.tools.sandbox import active_level

    match config.agent:
        case ToolsSettings(tools=specs):
            tools = await make_tools(specs, folder=config.folder)
            levels = [
                f"code runs in the sandbox {active_level(tool.level)}" for tool in tools if isinstance(tool, PythonTool)
            ]
            return [f"tools: {', '.join(tool.spec.name for tool in tools) or 'none'}", *levels]
        case FunctionSettings(function=source, model=model):
            gateway = Gateway(ScriptedModel([])) if model else None  # never opened
            FunctionAgent.load(source, folder=config.folder, gateway=gateway)
            return [f"function: {source}"]
        case ProgramSettings(command=command):
            # As it is looked for when it is run: in the folder only with a slash in its name.
            if not shutil.which(config.folder / command[0] if "/" in command[0] else command[0]):
                raise ConfigError(f"agent.command: {command[0]!r} cannot be run: there is no such program")
            return [f"program: {' '.join(command)}"]
        case _:
            return []


async def _ask(name: str, config: object) -> str:
    """One tiny call, so that a wrong address or key shows before a run does."""
    from tokenprior.config import Config
    from tokenprior.models.base import CallKey, Request
    from tokenprior.models.connect import is_embedded
    from tokenprior.models.forward import ForwardModel
    from tokenprior.models.provider import ProviderModel
    from tokenprior.rollout import Message

    assert isinstance(config, Config)
    if is_embedded(name):
        return "served by tokenprior itself"
    if "://" in name:
        model: ForwardModel | ProviderModel = ForwardModel.at(name, key_variable=config.endpoint.key_variable)
    else:
        model = ProviderModel(name)
    question = (Message(role="user", content="Say ok."),)
    try:
        reply = await model.answer(
            Request(key=CallKey(phase="rollout"), messages=question, max_tokens=16, timeout_s=30.0)
        )
    finally:
        await model.aclose()
    return f"answers in {reply.latency_s:.1f} s"

"""Worker: the agent of a config on another machine. Its model and the ledger of its tools are the driver's.

Order of events: a worker is made with the config and the way to the driver's desk; `ready` finds out whether the desk
can be reached; the agent is made at the first attempt, and has to be the driver's own to the letter, or nothing is
attempted: code that differs from machine to machine would be an experiment that nobody can repeat.

What is covered: no key of a model is needed here, for calls go through the driver. What is not: keys of tools, such as
a search engine's, are taken from this machine's environment, and code of the user's runs here with all rights of the
account that Ray runs under.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from socket import gethostname
from typing import TYPE_CHECKING, Any

from tokenprior.errors import ConfigError, DataError, TokenpriorError
from tokenprior.models.remote import Away, Line, RemoteModel, RemoteToolLedger
from tokenprior.task import Task

if TYPE_CHECKING:
    from tokenprior.agents.base import Agent
    from tokenprior.config import Config
    from tokenprior.models.base import Phase
    from tokenprior.prior import TokenPrior
    from tokenprior.rollout import Rollout


class Worker:
    """Makes attempts, many at once. What its methods raise ends the run; an error on purpose is given, not raised.

    Args:
        config: of the run; a folder that was sent along is where this process began.
        desk: the address of the driver's desk, and the token it wants to see.
        model: the name of the driver's model.
    """

    def __init__(self, config: Config, desk: tuple[str, str], model: str) -> None:
        self._config = config
        self._line = Line(*desk)
        self._model, self._ledger = RemoteModel(self._line, name=model), RemoteToolLedger(self._line)
        self._agents: dict[tuple[float, int], Agent] = {}
        self._making = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._attempts: set[asyncio.Task[Any]] = set()

    async def ready(self) -> TokenpriorError | None:
        """Whether this worker can work; if not, why the run has to stop."""
        try:
            await self._line.opened()
        except Away as away:
            return ConfigError(
                f"worker on {gethostname()}: {away}: give workers.host, an address of the driver that all nodes reach"
            )
        return None

    async def attempt(
        self,
        made_of: tuple[float, int, str],
        task: Task,
        prior: TokenPrior,
        phase: Phase,
        step: int,
        index: int,
    ) -> Rollout | TokenpriorError:
        """One attempt, or the error that stops the run.

        Args:
            made_of: temperature and seed of the agent, and the fingerprint of the driver's.
        """
        current = asyncio.current_task()
        assert current is not None
        self._attempts.add(current)
        try:
            agent = await self._agent(*made_of)
            return await agent.attempt(task, prior, phase=phase, step=step, index=index)
        except TokenpriorError as error:
            return error
        except Away:
            _leave()
            raise
        finally:
            self._attempts.discard(current)

    async def close(self) -> None:
        """End what is under way, with all that it started."""
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self._stack.aclose()
        await self._line.aclose()

    async def _agent(self, temperature: float, seed: int, fingerprint: str) -> Agent:
        from tokenprior.live import make_agent, tools_of

        async with self._making:
            if (agent := self._agents.get((temperature, seed))) is None:
                try:
                    agent = await make_agent(
                        self._config,
                        await tools_of(self._config),
                        model=self._model,
                        ledger=self._ledger,
                        stack=self._stack,
                        temperature=temperature,
                        seed=seed,
                    )
                except (ConfigError, DataError) as error:  # what is there on the driver need not be here
                    raise ConfigError(f"worker on {gethostname()}: {error}") from error
                self._agents[temperature, seed] = agent
        if agent.fingerprint != fingerprint:
            raise ConfigError(
                f"worker on {gethostname()}: its agent is not the driver's: code, data of tools or tokenprior itself "
                f"differ (folder {self._config.folder}): put the same ones there, or set workers.send_folder"
            )
        return agent


def _leave() -> None:
    """End this actor: without the driver it can do nothing, and another may be better placed."""
    import ray

    leave: Any = ray.actor.exit_actor
    leave()

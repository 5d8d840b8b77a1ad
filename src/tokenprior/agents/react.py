"""React: an agent with tools. It thinks, calls tools, looks at what they gave, and goes on until it answers.

Order of events of an attempt: the model is asked; if its reply calls tools, they are called and their results join the
conversation; a reply that calls none is the answer. The whole conversation is the rollout, and every call of it, of the
model and of tools, is in the ledger: an attempt that was cut off goes on where it was.

Source: the agent of the paper's experiments, arXiv 2510.08191, section 4 (ReAct with a code interpreter, or with search
and a browser).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Literal

from tokenprior.agents import fenced
from tokenprior.agents.base import QUESTION, SECONDS, AttemptLimits
from tokenprior.agents.toolbox import Toolbox
from tokenprior.errors import ConfigError
from tokenprior.flow import all_of
from tokenprior.models.base import CallFailed, CallKey, Model, Phase, Reply, Request
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Failure, Message, Rollout, StopReason, ToolCall, Usage
from tokenprior.task import Task, content_hash
from tokenprior.tools.base import Tool, ToolLedger, ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactAgent:
    """Lets a model call tools, as often as it needs to.

    Attributes:
        tools: of different names.
        ledger: where the calls of tools are written down.
        instructions: the system prompt; the prior is put at its end, see `TokenPrior.conditioned`.
        template: the first user message; `{question}` stands for the task's question.
        calls: how the model calls tools: `native`, by the endpoint's own means, or `fenced`, see `agents.fenced`.
        temperature: of this agent.
        max_tokens: the most one turn may write.
        limits: of one attempt.
        concurrency: how many attempts there are at once: each may hold an interpreter or a server of its own.
        seed: with the place of the call it gives a seed for each; `None` sends none.
    """

    model: Model
    tools: tuple[Tool, ...]
    ledger: ToolLedger
    instructions: str = ""
    template: str = QUESTION
    calls: Literal["native", "fenced"] = "native"
    temperature: float | None = 0.7
    max_tokens: int = 2048
    limits: AttemptLimits = field(default_factory=AttemptLimits)
    concurrency: int = 32
    seed: int | None = None
    _slots: asyncio.Semaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ConfigError(f"agent.concurrency is {self.concurrency}, expected at least 1")
        object.__setattr__(self, "_slots", asyncio.Semaphore(self.concurrency))
        if QUESTION not in self.template:
            raise ConfigError(f"agent.template {self.template!r} must contain {QUESTION}, or the task is never asked")
        names = [tool.spec.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"agent.tools: two tools are called {twice[0]!r}: leave one out")

    @property
    def fingerprint(self) -> str:
        settings = [self.instructions, self.template, self.calls, self.temperature, self.max_tokens, self.seed]
        limits = [self.limits.turns, self.limits.tokens, self.limits.usd]
        specs = [tool.spec for tool in self.tools]
        told = [[spec.name, spec.description, spec.parameters] for spec in specs]
        words = fenced.explained(specs) if specs and self.calls == "fenced" else ""
        tools = [told, words, [tool.fingerprint for tool in self.tools]]
        return content_hash(["react", self.model.name, *settings, limits, tools])

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """See `Agent.attempt`."""
        native = self.calls == "native" or not self.tools
        specs = [tool.spec for tool in self.tools]
        rules = self.instructions
        if not native:
            rules = " ".join(part for part in (rules, fenced.explained(specs)) if part)
        system = prior.conditioned(rules)
        question = self.template.replace(QUESTION, task.question)
        first = Message(role="user", content=question, images=task.images)
        begin = (Message(role="system", content=system), first) if system else (first,)
        request = Request(
            key=CallKey(phase=phase, step=step, task=task.id, rollout=index),
            messages=begin,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            tools=tuple(
                {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
                for spec in (specs if native else ())
            ),
            stop=() if native else fenced.STOP,
        )
        async with self._slots, Toolbox(self.tools, task, self.ledger) as box:
            return await _Attempt(self, task, request, box, native).run()


@dataclass(slots=True)
class _Attempt:
    """One attempt on its way."""

    agent: ReactAgent
    task: Task
    request: Request
    box: Toolbox
    native: bool
    messages: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    at_work_s: float = 0.0
    output: str = ""
    turn: int = 0

    async def run(self) -> Rollout:
        self.messages = list(self.request.messages)
        while not (limit := self._reached()):
            try:
                reply = await self._asked()
            except CallFailed as failed:
                return self._ended(StopReason.FAILED, Failure(kind=failed.kind, detail=failed.detail))
            if reply.stop is not StopReason.DONE:
                self.messages.append(reply.message)
                return self._ended(reply.stop)
            called = self._called(reply)
            if called is None:
                self.messages.append(reply.message)
                return self._ended(StopReason.DONE)
            said, calls = called
            before = content_hash([message.to_json() for message in self.messages])
            self.messages.append(said)
            results = await self._results(calls, before)
            for call, result in zip(calls, results, strict=True):
                native = Message(role="tool", content=result.text or "(nothing)", answers=call.id)
                self.messages.append(native if self.native else fenced.told(call.name, result))
            self.turn += 1
        return self._ended(StopReason.LIMIT, limit=limit)

    def _reached(self) -> str:
        """The limit that is reached; empty if none is."""
        limits, used = self.agent.limits, self.usage
        if limits.usd is not None and used.cost_usd is None:
            raise ConfigError(
                "agent.limits.usd is set, but the price of the model is not known: give it under `prices`"
            )
        reached = {
            "turns": self.turn >= limits.turns,
            "tokens": limits.tokens is not None and used.input_tokens + used.output_tokens >= limits.tokens,
            "usd": limits.usd is not None and (used.cost_usd or 0.0) >= limits.usd,
            SECONDS: self.at_work_s >= limits.seconds,
        }
        return next((name for name, is_reached in reached.items() if is_reached), "")

    async def _asked(self) -> Reply:
        key = replace(self.request.key, turn=self.turn)
        seed = self.agent.seed
        reply = await self.agent.model.answer(
            replace(
                self.request,
                key=key,
                messages=tuple(self.messages),
                seed=None if seed is None else int(content_hash([seed, str(key)])[:7], 16),
                timeout_s=self.agent.limits.seconds - self.at_work_s,
            )
        )
        self.usage += reply.usage
        self.at_work_s += reply.latency_s
        self.output = reply.text
        return reply

    def _called(self, reply: Reply) -> tuple[Message, list[ToolCall]] | None:
        """What the model said and the tools it called; `None` if it called none."""
        if not self.native:
            found = fenced.called(reply.text, [tool.spec for tool in self.agent.tools], self.turn)
            return (Message(role="assistant", content=found[0]), [found[1]]) if found else None
        if not reply.tool_calls:
            return None
        if reply.opaque:
            return reply.message, list(reply.tool_calls)
        # Endpoints make up ids at random; with ids of our own equal attempts are equal, and so are their hashes.
        calls = [replace(call, id=f"call_{self.turn}_{place}") for place, call in enumerate(reply.tool_calls)]
        return replace(reply.message, tool_calls=tuple(calls)), calls

    async def _results(self, calls: list[ToolCall], before: str) -> list[ToolResult]:
        left_s = self.agent.limits.seconds - self.at_work_s

        async def one(number: int, call: ToolCall) -> ToolResult:
            place = f"{replace(self.request.key, turn=self.turn)}/{number}"
            return await self.box.call(call, place=place, made_of=before, timeout_s=left_s)

        if self.box.apart(calls):
            results = await all_of(one(number, call) for number, call in enumerate(calls))
            self.at_work_s += max(result.seconds for result in results)
        else:
            results = [await one(number, call) for number, call in enumerate(calls)]
            self.at_work_s += sum(result.seconds for result in results)
        return results

    def _ended(self, stop: StopReason, failure: Failure | None = None, *, limit: str = "") -> Rollout:
        return Rollout(
            task_id=self.task.id,
            index=self.request.key.rollout,
            messages=tuple(self.messages),
            output="" if failure else self.output,
            stop=stop,
            failure=failure,
            usage=self.usage,
            latency_s=self.at_work_s,
            metadata={"turns": self.turn + (stop is not StopReason.LIMIT), "tools": self.box.log}
            | ({"limit": limit} if limit else {}),
        )

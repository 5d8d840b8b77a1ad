"""Chat: the plain agent, one prompt and one reply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenprior.agents.base import QUESTION
from tokenprior.errors import ConfigError
from tokenprior.models.base import CallFailed, CallKey, Model, Phase, Request
from tokenprior.prior import TokenPrior
from tokenprior.rollout import Failure, Message, Rollout, StopReason
from tokenprior.task import Task, content_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAgent:
    """Asks a model once for each attempt.

    Attributes:
        instructions: the system prompt; the prior is put at its end, see `TokenPrior.conditioned`.
        template: the user message; `{question}` stands for the task's question.
        temperature: of this agent; learning and evaluation may use two (`at`).
        max_tokens: the most an attempt may write.
        timeout_s: seconds of work that an attempt may take, waiting and back-off not counted.
        seed: with the place of the attempt it gives a seed for each call; `None` sends none.
    """

    model: Model
    instructions: str = ""
    template: str = QUESTION
    temperature: float | None = 0.7
    max_tokens: int = 1024
    timeout_s: float = 300.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if QUESTION not in self.template:
            raise ConfigError(f"agent.template {self.template!r} must contain {QUESTION}, or the task is never asked")

    def at(self, temperature: float | None) -> ChatAgent:
        """The same agent at another temperature."""
        return replace(self, temperature=temperature)

    @property
    def fingerprint(self) -> str:
        # Not the timeout: patience changes no reply that came.
        settings = [self.instructions, self.template, self.temperature, self.max_tokens, self.seed]
        return content_hash(["chat", self.model.name, *settings])

    async def attempt(self, task: Task, prior: TokenPrior, *, phase: Phase, step: int, index: int) -> Rollout:
        """See `Agent.attempt`."""
        system = prior.conditioned(self.instructions)
        user = Message(role="user", content=self.template.replace(QUESTION, task.question), images=task.images)
        messages = (Message(role="system", content=system), user) if system else (user,)
        key = CallKey(phase=phase, step=step, task=task.id, rollout=index)
        request = Request(
            key=key,
            messages=messages,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=None if self.seed is None else int(content_hash([self.seed, str(key)])[:7], 16),
            timeout_s=self.timeout_s,
        )
        try:
            reply = await self.model.answer(request)
        except CallFailed as failed:
            return Rollout(
                task_id=task.id,
                index=index,
                messages=messages,
                output="",
                stop=StopReason.FAILED,
                failure=Failure(kind=failed.kind, detail=failed.detail),
            )
        return Rollout(
            task_id=task.id,
            index=index,
            messages=(*messages, Message(role="assistant", content=reply.text)),
            output=reply.text,
            stop=reply.stop,
            usage=reply.usage,
            latency_s=reply.latency_s,
        )

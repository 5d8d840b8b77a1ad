"""pydantic-ai: a `Model` becomes a `WrapperModel`, an agent a `WrapperAgent` whose runs have one more capability.

The capability wraps whichever model serves a request (`get_wrapper_model`), so the prior is there for a model given at
the run, by `override` or as a fallback. It is added to what is sent and never to the history, so a history can go on
with or without it. The place is that of learning, where an agent of pydantic-ai sends chat completions: the end of the
first system prompt, else of the first part of the instructions, else instructions of its own.

What is not covered: realtime sessions, whose model is none of these.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any

from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import InstructionPart, ModelMessage, ModelRequest, SystemPromptPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel

from tokenprior.wrappers.base import Learned

Asked = tuple[list[ModelMessage], ModelRequestParameters]

_INSTRUCTIONS = -1  # in place of the index of a message


def wrap(thing: Model | AbstractAgent[Any, Any], learned: Learned) -> Any:
    """A model or an agent whose requests bear the prior. An agent runs as the given one does, and takes no new tools:
    those are for the given one."""
    return PriorModel(thing, learned) if isinstance(thing, Model) else PriorAgent(thing, learned)


class PriorModel(WrapperModel):
    """A model with a prior before each of its requests."""

    def __init__(self, wrapped: Model, learned: Learned) -> None:
        super().__init__(wrapped)
        self.learned = learned

    async def request(
        self, messages: list[ModelMessage], model_settings: Any, model_request_parameters: ModelRequestParameters
    ) -> Any:
        messages, parameters = _conditioned(messages, model_request_parameters, self.learned)
        return await super().request(messages, model_settings, parameters)

    async def count_tokens(
        self, messages: list[ModelMessage], model_settings: Any, model_request_parameters: ModelRequestParameters
    ) -> Any:
        messages, parameters = _conditioned(messages, model_request_parameters, self.learned)
        return await super().count_tokens(messages, model_settings, parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: Any,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncIterator[Any]:
        messages, parameters = _conditioned(messages, model_request_parameters, self.learned)
        async with super().request_stream(messages, model_settings, parameters, run_context) as stream:
            yield stream


class Prior(AbstractCapability[Any]):
    """Puts a prior before each request of an agent, whatever its model."""

    def __init__(self, learned: Learned) -> None:
        self.learned = learned

    def get_wrapper_model(self, model: Model) -> Model:
        return PriorModel(model, self.learned)


class PriorAgent(WrapperAgent[Any, Any]):
    """An agent whose runs have the capability."""

    def __init__(self, wrapped: AbstractAgent[Any, Any], learned: Learned) -> None:
        super().__init__(wrapped)
        self.learned = learned

    async def __aenter__(self) -> PriorAgent:
        await super().__aenter__()
        return self  # and not the wrapped one

    def iter(  # every way to run an agent is made of this one
        self, *args: Any, capabilities: Sequence[Any] | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[Any]:
        return super().iter(*args, capabilities=[*(capabilities or ()), Prior(self.learned)], **settings)


def _conditioned(messages: list[ModelMessage], parameters: ModelRequestParameters, learned: Learned) -> Asked:
    """The messages and the parameters, which hold the instructions, with the prior in one of them."""
    instructions = _instructions(messages, parameters)
    parts = [(at, place, part) for at, message in enumerate(messages) for place, part in enumerate(message.parts)]
    prompts = [(at, place) for at, place, part in parts if isinstance(part, SystemPromptPart)]
    leading = sum(1 for _ in takewhile(lambda one: isinstance(one[2], SystemPromptPart), parts))
    # As system messages of a chat come: instructions stand behind the prompts at its start.
    slots = [*prompts[:leading], *((_INSTRUCTIONS, n) for n in range(len(instructions))), *prompts[leading:]]
    texts = [_part(messages, instructions, slot).content for slot in slots]
    found = learned.systems(texts, _question(messages))
    if len(found) > len(texts):
        return messages, replace(parameters, instruction_parts=[InstructionPart(content=found[0])])
    for slot, text, new in zip(slots, texts, found, strict=True):
        if new != text:
            return _with(messages, parameters, instructions, slot, new)
    return messages, parameters


def _part(messages: list[ModelMessage], instructions: list[InstructionPart], slot: tuple[int, int]) -> Any:
    at, place = slot
    return instructions[place] if at == _INSTRUCTIONS else messages[at].parts[place]


def _with(
    messages: list[ModelMessage],
    parameters: ModelRequestParameters,
    instructions: list[InstructionPart],
    slot: tuple[int, int],
    text: str,
) -> Asked:
    """Another text in one slot; what was given stays as it was, for the history is made of it."""
    at, place = slot
    parts: list[Any] = instructions if at == _INSTRUCTIONS else list(messages[at].parts)
    parts = [*parts[:place], replace(parts[place], content=text), *parts[place + 1 :]]
    if at == _INSTRUCTIONS:
        return messages, replace(parameters, instruction_parts=parts)
    changed: Any = messages[at]
    return [*messages[:at], replace(changed, parts=parts), *messages[at + 1 :]], parameters


def _instructions(messages: list[ModelMessage], parameters: ModelRequestParameters) -> list[InstructionPart]:
    """Those of an agent stand in the parameters, those of a direct request in its messages."""
    if parameters.instruction_parts is not None:
        return list(parameters.instruction_parts)
    told = [one.instructions for one in messages if isinstance(one, ModelRequest) and one.instructions is not None]
    return [InstructionPart(content=text) for text in told[-1:]]


def _question(messages: list[ModelMessage]) -> str | None:
    """The last thing the user says."""
    for message in reversed(messages):
        for part in reversed(message.parts):
            if isinstance(part, UserPromptPart):
                said = [part.content] if isinstance(part.content, str) else part.content
                if texts := [one for one in said if isinstance(one, str)]:
                    return "\n".join(texts)
    return None

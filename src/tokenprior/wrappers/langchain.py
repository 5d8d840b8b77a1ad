"""LangChain: a chat model becomes a copy of itself that puts the prior into its messages; a chain, one of such models.

LangChain has no hook in front of a chat model that keeps it a chat model. The copy is therefore of a subclass of the
model's own class, made here, which overrides where its messages come in: `_convert_input` (invoke, stream, batch and
all that is made of them) and `generate`, `agenerate` (which may be called with messages). It stands before LangChain's
cache, so the cache tells calls with the prior from those without, and `bind_tools`, `with_structured_output` and
`create_agent` work with the model as they do with the given one. A version without these methods is refused, never in
silence.

Of a chain (`prompt | model | parser`, fallbacks, branches, bindings, parallels) the models in its fields are replaced.
What is not covered: models that a function of the chain calls, or a compiled graph, whose models nobody can see: wrap
the model, and make the graph with it. Chains in which no chat model is found are refused.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, ChatMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from tokenprior.errors import ConfigError
from tokenprior.wrappers.base import Learned, recast

_ROLES = {"human": "user", "ai": "assistant"}


def wrap(runnable: Runnable[Any, Any], learned: Learned) -> Any:
    """A runnable of the same class with the prior before the calls of its chat models.

    Raises:
        ConfigError: there is no chat model in it, or none that can be seen.
    """
    found = _replaced(runnable, learned)
    if found is runnable:
        raise ConfigError(
            f"no chat model can be seen in this {type(runnable).__name__}: wrap the chat model, and make the chain, "
            "the agent or the graph with it"
        )
    return found


def _replaced(value: Any, learned: Learned) -> Any:
    """A value with its chat models replaced; the same value if it has none."""
    match value:
        case BaseChatModel():
            return _model(value, learned)
        case Runnable() if isinstance(value, BaseModel):
            fields = {name: getattr(value, name) for name in type(value).model_fields}
            made = {name: _replaced(field, learned) for name, field in fields.items()}
            changed = {name: new for name, new in made.items() if new is not fields[name]}
            return value.model_copy(update=changed) if changed else value
        case list() | tuple():
            items = [_replaced(one, learned) for one in value]
            return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
        case dict():
            members = {name: _replaced(one, learned) for name, one in value.items()}
            return members if any(members[name] is not value[name] for name in value) else value
        case _:
            return value


def _model(model: BaseChatModel, learned: Learned) -> BaseChatModel:
    kind = type(model)

    def convert(self: Any, model_input: Any) -> ChatPromptValue:
        prompt = kind._convert_input(self, model_input)
        return ChatPromptValue(messages=_conditioned(prompt.to_messages(), learned))

    def generate(self: Any, messages: list[list[BaseMessage]], *args: Any, **settings: Any) -> Any:
        return kind.generate(self, [_conditioned(one, learned) for one in messages], *args, **settings)

    async def agenerate(self: Any, messages: list[list[BaseMessage]], *args: Any, **settings: Any) -> Any:
        return await kind.agenerate(self, [_conditioned(one, learned) for one in messages], *args, **settings)

    return recast(model.model_copy(), _convert_input=convert, generate=generate, agenerate=agenerate)


def _conditioned(messages: list[BaseMessage], learned: Learned) -> list[BaseMessage]:
    said = [{"role": _role(message), "content": message.content} for message in messages]
    try:
        found = learned.conditioned("chat", {"messages": said})["messages"]
    except ValueError:  # no message at all: the model says so
        return messages
    if len(found) > len(said):
        return [SystemMessage(found[0]["content"]), *messages]
    return [
        message if new is old else message.model_copy(update={"content": new["content"]})
        for message, old, new in zip(messages, said, found, strict=True)
    ]


def _role(message: BaseMessage) -> str:
    return message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, message.type)

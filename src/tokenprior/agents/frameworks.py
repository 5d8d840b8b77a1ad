"""Frameworks: agent objects of pydantic-ai, the OpenAI Agents SDK, LangChain, LangGraph and DSPy, run on a seat.

Order of events: an object is known by the names of its classes, so that nothing is imported before it is run; on a seat
its framework is given a model that leads to the gateway, and the question; what it gives becomes a text.

What is covered: model calls that the framework makes with the model it was given; the gateway records, limits and
conditions those. What is not: calls of tools, which the framework makes itself and no ledger knows, and models that a
tool or a part of the agent brings along.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from tokenprior.agents.seat import Seat
from tokenprior.errors import ConfigError
from tokenprior.task import Task, content_hash

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Framework = Literal["pydantic-ai", "openai-agents", "langchain", "dspy"]
Run = Callable[[Task, Seat], Awaitable[str]]

ACCEPTED = (
    "a function (task, prior) or (task, prior, seat), an agent of pydantic-ai or openai-agents, a DSPy module, "
    "or a function make(seat) that gives one of those or a LangChain runnable"
)

_QUESTION_FIELDS = ("messages", "question", "input", "query")
_THOUGHTS = {"reasoning", "rationale", "trajectory"}  # fields that DSPy's modules add to those of the signature


def framework_of(agent: object) -> Framework | None:
    """The framework that an object is an agent of. Imports nothing."""
    for one in type(agent).__mro__:
        match one.__module__.partition(".")[0], one.__name__:
            case "pydantic_ai", "AbstractAgent":
                return "pydantic-ai"
            # The SDK's top module has a name that others use too.
            case "agents", "Agent" if one.__module__ == "agents.agent" and hasattr(agent, "handoffs"):
                return "openai-agents"
            case "langchain_core", "Runnable":
                return "langchain"
            case "dspy", "Module":
                return "dspy"
    return None


def adapt(agent: Any, *, name: str, model: str, seated: bool = False) -> Run | None:
    """How an agent object is run on a seat; `None` if it is of no framework known here. It may run for several seats
    at once; nothing of a seat stays in the object.

    Args:
        name: what messages call it.
        model: what its calls ask for, whatever model it was made with. A LangChain runnable keeps its own.
        seated: it was made for this one seat, so that models inside it lead to the gateway.

    Raises:
        ConfigError: it holds a model that does not lead to the gateway, or `model` is `*`, and it can name none.
    """
    framework = framework_of(agent)
    if framework in ("pydantic-ai", "openai-agents", "dspy") and model == "*":
        raise ConfigError(f"function {name}: an agent of {framework} gets its model by name: put it in place of the *")
    match framework:
        case None:
            return None
        case "pydantic-ai":
            return _pydantic_ai(agent, model)
        case "openai-agents":
            return _openai_agents(agent, model)
        case "langchain":
            if not seated:
                raise ConfigError(
                    f"function {name}: a LangChain runnable holds its model: give a function make(seat) that makes it "
                    "with ChatOpenAI(base_url=seat.base_url, api_key=seat.api_key)"
                )
            return _langchain(agent)
        case "dspy":
            if not seated and any(predictor.lm is not None for _, predictor in agent.named_predictors()):
                raise ConfigError(f"function {name}: the module holds a model of its own: leave out its set_lm")
            return _dspy(agent, model)
        case _:
            assert_never(framework)


def code_of(source: str, folder: str | Path) -> str:
    """A hash of the name of an object that was loaded by `source.load_function`, and of the file it was loaded from.

    The class of an agent object stands in a file of its framework, which tells nothing of the object.
    """
    place, _, name = source.rpartition(":")
    is_file = place.endswith(".py")
    path = Path(folder) / Path(place).expanduser() if is_file else Path(str(sys.modules[place].__file__))
    return content_hash([name, hashlib.sha256(path.read_bytes()).hexdigest()])


def _pydantic_ai(agent: Any, model: str) -> Run:
    async def run(task: Task, seat: Seat) -> str:
        from pydantic_ai.messages import BinaryContent, ImageUrl
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
        from pydantic_ai.usage import UsageLimits

        images = [
            BinaryContent.from_data_uri(image) if image.startswith("data:") else ImageUrl(url=image)
            for image in task.images
        ]
        async with _client(seat) as client:
            ended = await agent.run(
                [task.question, *images] if images else task.question,
                model=OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)),
                usage_limits=UsageLimits(request_limit=None),  # those of the attempt hold
            )
        return _text(ended.output)

    return run


def _openai_agents(agent: Any, model: str) -> Run:
    async def run(task: Task, seat: Seat) -> str:
        sdk: Any = import_module("agents")
        images = [{"type": "input_image", "image_url": image, "detail": "auto"} for image in task.images]
        content = [{"type": "input_text", "text": task.question}, *images]
        async with _client(seat) as client:
            ended = await sdk.Runner.run(
                agent,
                [{"role": "user", "content": content}] if images else task.question,
                max_turns=seat.limits.turns + 1,  # so that the limit of the attempt is met first
                run_config=sdk.RunConfig(
                    model=sdk.OpenAIChatCompletionsModel(model=model, openai_client=client), tracing_disabled=True
                ),
            )
        return _text(ended.final_output)

    return run


def _langchain(runnable: Any) -> Run:
    builder = getattr(runnable, "builder", None)  # of a compiled graph

    async def run(task: Task, seat: Seat) -> str:
        if builder is not None:
            # No metadata: a graph's state holds what it finds out beside what it is given.
            asked = _filled(builder.schemas[builder.input_schema], task.question, {})
        else:
            fields = runnable.get_input_jsonschema().get("properties", {})
            asked = _filled(fields, task.question, task.metadata) if fields else {}
        if "messages" in asked:
            images = [{"type": "image_url", "image_url": {"url": image}} for image in task.images]
            content = [{"type": "text", "text": task.question}, *images] if images else task.question
            asked["messages"] = [{"role": "user", "content": content}]
        elif task.images:
            raise ConfigError("a LangChain runnable gets images only if its input has `messages`")
        ended = await runnable.ainvoke(asked or task.question)
        if isinstance(ended, Mapping) and ended.get("structured_response") is not None:  # of `create_agent`
            return _text(ended["structured_response"])
        if isinstance(ended, Mapping) and ended.get("messages"):
            ended = ended["messages"][-1]
        elif isinstance(ended, Mapping) and builder is not None:
            ended = _of_fields({name: value for name, value in ended.items() if name not in asked})
        return _text(_content(ended) if hasattr(ended, "content") else ended)

    return run


def _dspy(module: Any, model: str) -> Run:
    async def run(task: Task, seat: Seat) -> str:
        dspy: Any = import_module("dspy")
        fields, required = _dspy_inputs(module)
        asked = _filled(fields, task.question, task.metadata)
        if task.images:
            raise ConfigError("a DSPy module gets no images: give a function (task, prior, seat)")
        if missing := [name for name in required if name not in asked]:  # DSPy would go on without them
            raise ValueError(f"the task has no metadata for the inputs {missing} of the module")
        lm = dspy.LM(
            f"openai/{model}",
            api_base=seat.base_url,
            api_key=seat.api_key,
            cache=False,
            num_retries=0,
            timeout=seat.limits.seconds,
        )
        call = module.acall if hasattr(module, "aforward") else dspy.asyncify(module)
        with dspy.context(lm=lm):
            ended = await call(**asked)
        if not hasattr(ended, "toDict"):
            return _text(ended)
        found = dict(ended.items())
        return _text(_of_fields({name: value for name, value in found.items() if name not in _THOUGHTS} or found))

    return run


def _dspy_inputs(module: Any) -> tuple[list[str], list[str]]:
    """The names of its inputs, and of those that it needs: parameters of `forward`, else the fields of its signature,
    or of its first predictor's."""
    kind = type(module)  # DSPy warns of whoever takes `forward` from a module itself
    _, *parameters = inspect.signature(getattr(kind, "forward", None) or kind.aforward).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if named:
        return [one.name for one in named], [one.name for one in named if one.default is one.empty]
    signature = getattr(module, "signature", None) or next(one.signature for _, one in module.named_predictors())
    return list(signature.input_fields), list(signature.input_fields)


def _client(seat: Seat) -> AsyncOpenAI:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    return AsyncOpenAI(
        base_url=seat.base_url,
        api_key=seat.api_key,
        max_retries=0,  # the gateway's
        timeout=None,  # the attempt's
        # It talks to loopback only, and to load certificates would take 30 ms an attempt.
        http_client=DefaultAsyncHttpxClient(trust_env=False, verify=False),
    )


def _filled(fields: Iterable[str], question: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name: the question where it belongs, and the others as far as the metadata have them.

    Raises:
        ConfigError: it cannot be told where the question belongs.
    """
    names = list(fields)
    told = {name: metadata[name] for name in names if name in metadata and name not in _QUESTION_FIELDS}
    open_names = [name for name in names if name not in told]
    place = next((name for name in _QUESTION_FIELDS if name in names), None)
    if place is None and len(open_names) == 1:
        place = open_names[0]
    if place is None:
        raise ConfigError(f"the agent's inputs are {names}: name the one for the question `question`")
    return told | {place: question}


def _of_fields(found: Mapping[str, Any]) -> Any:
    """The value, where there is but one, else all."""
    return next(iter(found.values())) if len(found) == 1 else dict(found)


def _content(message: Any) -> str:
    parts = message.content
    if isinstance(parts, str):
        return parts
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)


def _text(output: Any) -> str:
    """A text as it is, anything else as JSON.

    Raises:
        ValueError: there is nothing, or it has no JSON.
    """
    from pydantic_core import to_json

    if output is None:
        raise ValueError("the agent gave no output")
    return output if isinstance(output, str) else to_json(output).decode()

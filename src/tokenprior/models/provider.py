"""Provider: the API of a provider by its name, through pydantic-ai. The only place that knows its types and errors."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokenprior.errors import ConfigError, ModelError
from tokenprior.models.base import STOPS, CallFailed, Phase, Reply, Request, refusal
from tokenprior.redact import redact
from tokenprior.rollout import Message, StopReason, ToolCall, Usage
from tokenprior.text import shorten

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse

# Providers that keep nothing of a prompt unless it is marked. Others do by themselves, and where marks would change how
# (OpenAI), they are left alone. Source: `ModelSettings.cache` of pydantic-ai 2.68.
_MARKED = ("anthropic:", "bedrock:", "openrouter:")
_REPEATED: tuple[Phase, ...] = ("rollout", "gate", "audit", "evaluate")


class ProviderModel:
    """A model of a provider that pydantic-ai knows. Tries once; `RetriedModel` asks again.

    Args:
        name: `PROVIDER:MODEL` as pydantic-ai spells it. The key stands in the provider's own environment variable, such
            as `OPENAI_API_KEY`.
        json_schema: whether the endpoint can be held to a schema of the reply.

    Raises:
        ConfigError: the name cannot be understood, or its key is not in the environment.
    """

    def __init__(self, name: str, *, json_schema: bool = False) -> None:
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.models import infer_model

        self._name, self._json_schema = name, json_schema
        try:
            self._model = infer_model(name)
        except ImportError as error:
            raise ConfigError(f"model {name!r}: {shorten(redact(str(error)), 300)}") from error
        except (UserError, ValueError) as error:
            if variable := re.search(r"`(\w+_(?:KEY|TOKEN))` environment variable", str(error)):
                raise ConfigError(f"model {name!r}: the environment variable {variable[1]} is not set") from error
            raise ConfigError(
                f"model {name!r}: {shorten(redact(str(error)), 300)} (or use `embedded`, or http://HOST/v1#MODEL)"
            ) from error

    @property
    def name(self) -> str:
        return self._name

    async def aclose(self) -> None:
        """Close the connections."""
        async with self._model:  # its provider closes the client that it made when the last one leaves
            pass

    async def answer(self, request: Request) -> Reply:
        """See `Model.answer`."""
        from pydantic_ai.direct import model_request
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.output import OutputObjectDefinition
        from pydantic_ai.settings import ModelSettings
        from pydantic_ai.tools import ToolDefinition

        settings = ModelSettings(max_tokens=request.max_tokens, max_retries=0, framing_announcement="never")
        settings["timeout"] = max(0.001, request.timeout_s)
        if request.temperature is not None:
            settings["temperature"] = request.temperature
        if request.seed is not None:
            settings["seed"] = request.seed
        if request.stop:
            settings["stop_sequences"] = list(request.stop)
        if self._name.removeprefix("gateway/").startswith(_MARKED):
            settings["cache"] = {"messages": _goes_on(request)}
        parameters = ModelRequestParameters(
            function_tools=[
                ToolDefinition(
                    name=tool["name"], description=tool["description"], parameters_json_schema=tool["parameters"]
                )
                for tool in request.tools
            ]
        )
        if request.schema is not None and self._json_schema:
            parameters.output_mode = "native"
            parameters.output_object = OutputObjectDefinition(json_schema=request.schema, name="reply", strict=True)
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.001, request.timeout_s)):
                response = await model_request(
                    self._model, _messages(request), model_settings=settings, model_request_parameters=parameters
                )
        except Exception as error:
            raise _mapped(error, self._name, request.timeout_s) from error
        return _reply(response, time.monotonic() - started)


def _goes_on(request: Request) -> bool:
    """Whether this prompt may be the beginning of a later one: of the next turn, or of the next attempt at a task.

    What is written to a cache and not read costs a quarter more, so learning prompts have only what they share marked.
    """
    return request.key.phase in _REPEATED or bool(request.tools)


def _messages(request: Request) -> list[Any]:
    from pydantic_ai.messages import (
        ModelMessagesTypeAdapter,
        ModelRequest,
        ModelResponse,
        SystemPromptPart,
        ToolReturnPart,
        UserPromptPart,
    )

    made: list[Any] = []
    tools = {call.id: call.name for message in request.messages for call in message.tool_calls}
    for message in request.messages:
        text = _sendable(message.content)
        part: Any
        match message.role:
            case "assistant" if message.opaque:
                made += ModelMessagesTypeAdapter.validate_json(message.opaque)
                continue
            case "assistant":
                made.append(ModelResponse(parts=_answered(message)))
                continue
            case "tool":
                name = tools.get(message.answers, "tool")
                part = ToolReturnPart(tool_name=name, content=text, tool_call_id=message.answers)
            case "system":
                part = SystemPromptPart(content=text)
            case "user":
                part = UserPromptPart(content=[text, *_images(message)] if message.images else text)
        if made and isinstance(made[-1], ModelRequest):
            made[-1] = ModelRequest(parts=[*made[-1].parts, part])
        else:
            made.append(ModelRequest(parts=[part]))
    return made


def _answered(message: Message) -> list[Any]:
    from pydantic_ai.messages import TextPart, ToolCallPart

    parts: list[Any] = [TextPart(content=_sendable(message.content))] if message.content else []
    calls = [ToolCallPart(tool_name=c.name, args=_sendable(c.arguments), tool_call_id=c.id) for c in message.tool_calls]
    return parts + calls or [TextPart(content="")]


def _images(message: Message) -> list[Any]:
    from pydantic_ai.messages import BinaryContent, ImageUrl

    return [
        BinaryContent.from_data_uri(image) if image.startswith("data:") else ImageUrl(url=image)
        for image in message.images
    ]


def _sendable(text: str) -> str:
    """Models do write lone surrogates, and no request can carry them on."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reply(response: ModelResponse, latency_s: float) -> Reply:
    from pydantic_ai.messages import ModelMessagesTypeAdapter, TextPart, ToolCallPart

    used = response.usage
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    # Reasoning that is signed has to go back as it came, and only where a conversation goes on: behind a tool call.
    more = any(not isinstance(part, TextPart | ToolCallPart) for part in response.parts)
    return Reply(
        text=response.text or "",
        stop=STOPS.get(str(response.finish_reason), StopReason.DONE),
        usage=Usage(
            calls=1,
            input_tokens=used.input_tokens or 0,
            output_tokens=used.output_tokens or 0,
            cached_tokens=used.cache_read_tokens or 0,
            cost_usd=None,
        ),
        latency_s=latency_s,
        tool_calls=tuple(
            ToolCall(id=part.tool_call_id, name=part.tool_name, arguments=part.args_as_json_str()) for part in calls
        ),
        opaque=ModelMessagesTypeAdapter.dump_json([response]).decode() if calls and more else "",
        written_tokens=used.cache_write_tokens or 0,
    )


def _mapped(error: Exception, name: str, timeout_s: float) -> Exception:
    """Foreign errors as ours. The one place where an endpoint's behaviour gets its meaning."""
    from pydantic_ai.exceptions import (
        ModelAPIError,
        ModelHTTPError,
        ModelQuotaExceededError,
        UnexpectedModelBehavior,
        UserError,
    )

    detail = shorten(redact(str(error)), 300)
    if isinstance(error, ModelHTTPError):
        status, headers = error.status_code, error.headers or {}
        if isinstance(error, ModelQuotaExceededError):
            return ModelError(f"{redact(name)} refused: the account has no credit left (HTTP {status}: {detail})")
        return refusal(name, status, headers, detail)
    causes = list(_causes(error))
    # Not by its words or by the client's own class: aiohttp's closed connection reaches us as "Request timed out".
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return CallFailed("timeout", f"no reply within {timeout_s:.3g} s", retryable=False)
    if any(isinstance(cause, json.JSONDecodeError | UnicodeDecodeError) for cause in causes):
        return CallFailed("garbled", detail, retryable=True)
    if isinstance(error, ModelAPIError):
        words = shorten(redact(str(causes[-1])), 300) or type(causes[-1]).__name__
        if any(isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in causes):
            return CallFailed("unreachable", words, retryable=True)
        return CallFailed("connection", words, retryable=True)
    if isinstance(error, UserError):
        return ConfigError(f"{redact(name)}: {detail}")
    if isinstance(error, UnexpectedModelBehavior | ValueError | LookupError | TypeError | AttributeError):
        return CallFailed("garbled", detail, retryable=True)
    return CallFailed("connection", f"{type(error).__name__}: {detail}", retryable=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__

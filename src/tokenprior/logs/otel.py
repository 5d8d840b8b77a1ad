"""Traces of OpenTelemetry with the semantic conventions for generative AI.

A trace is an attempt; the last chat span in it that has messages holds the conversation. Spans are read as OTLP/JSON
(`resourceSpans`, whole or one a line), or one a line as exporters write them. Messages are read from
`gen_ai.input.messages` and `gen_ai.output.messages`, from the numbered `gen_ai.prompt.N` and `gen_ai.completion.N`, or
from events such as `gen_ai.user.message`. A trace in which no span has messages, such as of an embedding, is left out.
Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/, versions 1.27 to 1.37.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprior.errors import DataError
from tokenprior.logs.base import NO_REWARD, Found, lines, parsed, reward_from, short, task_name, tokens, whole
from tokenprior.logs.spans import SCORE, Span, span_from
from tokenprior.redact import redact
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, StopReason, Usage

TASK, REWARD = "tokenprior.task", "tokenprior.reward"
_STOPS = {"length": StopReason.LENGTH, "max_tokens": StopReason.LENGTH, "content_filter": StopReason.FILTERED}


def read(path: Path, fields: Mapping[str, str]) -> Iterator[Found]:
    """The attempts of a file of spans, in the order in which their traces begin in it.

    Args:
        fields: the attributes that hold `task`, `reward`, `question` and `answer`, on any span of the trace; the first
            two are `tokenprior.task` and `tokenprior.reward` unless named.

    Raises:
        DataError: the file holds no spans, a trace names no task, or an attribute is not as it should be.
    """
    traces: dict[str, list[Span]] = {}
    for span in _spans(path):
        traces.setdefault(span.trace, []).append(span)
    if not traces:
        raise DataError(f"{path}: no spans: expected OTLP/JSON with resourceSpans, or one span a line")
    found = [attempt for trace, spans in traces.items() if (attempt := _found(trace, spans, path, fields))]
    if not found:
        raise DataError(
            f"{path}: no span holds messages: have the instrumentation record them (gen_ai.input.messages and "
            "gen_ai.output.messages), they are left out by default"
        )
    yield from found


def _spans(path: Path) -> Iterator[Span]:
    first = next(lines(path), None)
    if first is None:
        return
    try:
        parsed(first[1], str(path))
    except DataError:
        yield from _spans_in(parsed(whole(path), str(path)), str(path), path.name)
        return
    for number, line in lines(path):
        yield from _spans_in(parsed(line, f"{path}:{number}"), f"{path}:{number}", f"{path.name}:{number}")


def _spans_in(value: Any, where: str, source: str) -> Iterator[Span]:
    if isinstance(value, list):
        for one in value:
            yield from _spans_in(one, where, source)
    elif isinstance(value, Mapping) and "resourceSpans" in value:
        for resource in _items(value, "resourceSpans", where):
            for scope in _items(resource, "scopeSpans", where):
                for span in _items(scope, "spans", where):
                    yield span_from(span, where, source)
    else:
        yield span_from(value, where, source)


def _items(value: Any, name: str, where: str) -> list[Any]:
    found = value.get(name, []) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise DataError(f"{where}: expected an object with a list {name}, got {short(value)}")
    return found


def _found(trace: str, spans: list[Span], path: Path, fields: Mapping[str, str]) -> Found | None:
    spans = sorted(spans, key=lambda span: (isinstance(span.start, str), span.start))
    talks = [span for span in spans if span.messages]
    chats = [span for span in talks if span.is_chat] or talks
    if not chats:
        return None
    last = chats[-1]
    where = f"{path}: trace {trace}"
    name = fields.get("task", TASK)
    task = _attribute(spans, name)
    if task is None:
        raise DataError(
            f"{where}: no span has the attribute {name!r} that names the task: set it on a span of each trace, or name "
            "the one you have with `fields` (task)"
        )
    failure = None
    if last.error is not None and last.messages[-1].role != "assistant":
        kind = str(last.attributes.get("error.type") or "agent")
        failure = Failure(kind=" ".join(kind.split())[:40], detail=redact(" ".join(last.error.split()))[:200])
    question = _attribute(spans, fields["question"]) if "question" in fields else None
    return Found(
        where=f"{last.where}: trace {trace}",
        task=task_name(task, name, where),
        messages=last.messages,
        reward=Reward.unscored(f"the attempt failed: {failure.kind}") if failure else _reward(spans, fields, where),
        question=str(question or ""),
        answer=_attribute(spans, fields["answer"]) if "answer" in fields else None,
        stop=_STOPS.get(last.finished, StopReason.DONE),
        failure=failure,
        usage=_usage(chats),
    )


def _attribute(spans: Iterable[Span], name: str) -> Any:
    return next((span.attributes[name] for span in spans if span.attributes.get(name) is not None), None)


def _reward(spans: list[Span], fields: Mapping[str, str], where: str) -> Reward:
    name = fields.get("reward", REWARD)
    value = _attribute(spans, name)
    scored = [event for span in spans for _, event in span.events]
    if value is None and "reward" in fields:
        # The name of an evaluation, where several were made.
        scored = [event for event in scored if event.get("gen_ai.evaluation.name") == name]
    if value is None and scored:
        value = scored[-1][SCORE]
        told = scored[-1].get("gen_ai.evaluation.explanation")
        reward = reward_from(value, SCORE, where)
        return Reward(value=reward.value, reason=reward.reason, feedback=told if isinstance(told, str) else "")
    if value is None:
        return Reward.unscored(NO_REWARD)
    return reward_from(value, name, where)


def _usage(chats: Iterable[Span]) -> Usage:
    usage = Usage()
    for span in chats:
        held = span.attributes
        usage += Usage(
            calls=1,
            input_tokens=tokens(held, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
            output_tokens=tokens(held, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
            cached_tokens=tokens(held, "gen_ai.usage.cache_read.input_tokens"),
            cost_usd=None,
        )
    return usage

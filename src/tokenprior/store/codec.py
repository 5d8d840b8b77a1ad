"""Codec: facts to JSON texts and back. The shapes are described in docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenprior.advantage import Advantage
from tokenprior.effects import Observation
from tokenprior.models.base import Reply
from tokenprior.redact import own_secrets, redact
from tokenprior.reward import Reward
from tokenprior.rollout import Failure, Message, Rollout, StopReason, Usage
from tokenprior.tools.base import ToolResult

MOST_TROUBLE = 80  # characters

_WRITTEN = json.JSONEncoder(separators=(",", ":"))


def dumps(value: Any) -> str:
    """A JSON text without needless space. Lone surrogates, which models do write, are kept as escapes."""
    return _WRITTEN.encode(value)


def redacted(value: Any, secrets: tuple[str, ...] | None = None) -> Any:
    """A JSON value without the secrets in its texts. Cut out of a finished JSON text they could take quotes along.

    Args:
        secrets: as for `redact`.
    """
    secrets = own_secrets() if secrets is None else secrets
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {redact(key, secrets): redacted(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, secrets) for item in value]
    return value


def plain(text: str) -> str:
    """A text that every database takes: lone surrogates and zero bytes as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def usage_to_json(usage: Usage) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "cost_usd": usage.cost_usd,
    }


def rollout_to_json(rollout: Rollout) -> dict[str, Any]:
    return {
        "task_id": rollout.task_id,
        "index": rollout.index,
        "messages": [message.to_json() for message in rollout.messages],
        "output": rollout.output,
        "stop": rollout.stop.value,
        "failure": [rollout.failure.kind, rollout.failure.detail] if rollout.failure else None,
        "usage": usage_to_json(rollout.usage),
        "latency_s": rollout.latency_s,
        "included": list(rollout.included),
        "metadata": rollout.metadata,
    }


def rollout_from_json(value: dict[str, Any]) -> Rollout:
    failure = value["failure"]
    return Rollout(
        task_id=value["task_id"],
        index=value["index"],
        messages=tuple(Message.from_json(message) for message in value["messages"]),
        output=value["output"],
        stop=StopReason(value["stop"]),
        failure=Failure(kind=failure[0], detail=failure[1]) if failure else None,
        usage=Usage(**value["usage"]),
        latency_s=value["latency_s"],
        included=tuple(value.get("included", ())),
        metadata=value["metadata"],
    )


def reward_to_json(reward: Reward) -> dict[str, Any]:
    return {
        "value": reward.value,
        "reason": reward.reason,
        "extracted": reward.extracted,
        "feedback": reward.feedback,
    }


def reward_from_json(value: dict[str, Any]) -> Reward:
    return Reward(**value)


def figures_of(rollout: Mapping[str, Any], reward: Mapping[str, Any] | None) -> tuple[float | None, str | None]:
    """The number of an attempt's reward, or in a few words why it has none; neither before it was judged.

    Args:
        rollout, reward: as JSON values.
    """
    if rollout["failure"]:
        return None, f"failed: {rollout['failure'][0]}"[:MOST_TROUBLE]
    if reward is None:
        return None, None
    value: float | None = reward["value"]
    # What stands behind a colon is the single case.
    return value, f"unscored: {plain(reward['reason']).split(':', 1)[0]}"[:MOST_TROUBLE] if value is None else None


def observations_to_json(observations: Sequence[Observation]) -> dict[str, Any]:
    """What attempts saw stands once for all that saw it: there are few different parts of a library."""
    parts = list(dict.fromkeys(included for one in observations for included, _ in one.attempts))
    number = {included: place for place, included in enumerate(parts)}
    return {
        "parts": [sorted(included) for included in parts],
        "groups": [
            [one.task, one.step, [[number[included], reward] for included, reward in one.attempts]]
            for one in observations
        ],
    }


def observations_from_json(value: dict[str, Any] | list[Any]) -> tuple[Observation, ...]:
    if isinstance(value, list):  # as it was before: each attempt with all that it saw
        return tuple(
            Observation(
                task=task, step=step, attempts=tuple((frozenset(included), reward) for included, reward in attempts)
            )
            for task, step, attempts in value
        )
    parts = [frozenset(included) for included in value["parts"]]
    return tuple(
        Observation(task=task, step=step, attempts=tuple((parts[place], reward) for place, reward in attempts))
        for task, step, attempts in value["groups"]
    )


def reply_to_json(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "stop": reply.stop.value,
        "usage": usage_to_json(reply.usage),
        "latency_s": reply.latency_s,
        **({"message": reply.message.to_json()} if reply.tool_calls or reply.opaque else {}),
        **({"body": reply.body} if reply.body else {}),
    }


def reply_from_json(value: dict[str, Any]) -> Reply:
    message = Message.from_json(value["message"]) if "message" in value else Message(role="assistant", content="")
    return Reply(
        text=value["text"],
        stop=StopReason(value["stop"]),
        usage=Usage(**value["usage"]),
        latency_s=value["latency_s"],
        tool_calls=message.tool_calls,
        opaque=message.opaque,
        body=value.get("body", ""),
    )


def tool_result_to_json(result: ToolResult) -> dict[str, Any]:
    return {"text": result.text, "failed": result.failed, "seconds": result.seconds}


def tool_result_from_json(value: dict[str, Any]) -> ToolResult:
    return ToolResult(**value)


def advantage_to_json(advantage: Advantage) -> dict[str, Any]:
    return {
        "groups": list(advantage.groups),
        "rollouts": list(advantage.rollouts),
        "summaries": list(advantage.summaries),
        "lessons": [[lesson.name, lesson.text] for lesson in advantage.lessons],
        "drops": [[drop.what, drop.reason] for drop in advantage.drops],
        "usage": usage_to_json(advantage.usage),
    }

"""Placement: where in a request of an API the prior stands. The place is known here and nowhere else.

It is the end of the first system or developer message, as in learning; where there is none, a new one at the start:

    chat        OpenAI's chat completions: the first message of that role in `messages`, else a new first message
    responses   OpenAI's responses: `instructions`, else the first item of that role in `input`, else new `instructions`
    messages    Anthropic's messages: `system`, a text or a list of blocks, else a new `system`

A prior that stands in that place already is not added again, so a wrapped client behind the proxy gets it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenprior.prior import TokenPrior

Api = Literal["chat", "responses", "messages"]

_PART_TYPES = {"chat": "text", "responses": "input_text", "messages": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """The one change that puts a prior into a request.

    Attributes:
        path: keys and indices from the body down to the place.
        value: what comes to stand there, as JSON.
        insert: whether it is inserted into the list or the text that the path but for its last index leads to, at that
            index; of a text this is always its end. Otherwise it is a member of an object, new or in place of a null.
    """

    path: tuple[str | int, ...]
    value: Any
    insert: bool


def placed(api: Api, body: Any, prior: TokenPrior) -> Edit | None:
    """The change that puts a prior into a request; `None` for an empty prior, or one that stands there already.

    Args:
        body: of the request, as parsed JSON.

    Raises:
        ValueError: the body has no such place, for it is malformed; the message says where.
    """
    if not prior.text:
        return None
    if not isinstance(body, dict):
        raise ValueError(f"expected a JSON object, got {type(body).__name__}")
    if api == "messages":
        return _at_end(api, ("system",), body.get("system"), prior)
    if api == "responses" and body.get("instructions") is not None:
        return _at_end(api, ("instructions",), body["instructions"], prior, lists=False)
    listed = "messages" if api == "chat" else "input"
    messages = body.get(listed)
    if api == "chat" and not (isinstance(messages, list) and messages):
        raise ValueError("expected a JSON object with a list of `messages`")
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            return _at_end(api, (listed, place, "content"), message.get("content"), prior)
    if api == "chat":
        return Edit(path=("messages", 0), value={"role": "system", "content": prior.text}, insert=True)
    return Edit(path=("instructions",), value=prior.text, insert=False)


def _at_end(
    api: Api, path: tuple[str | int, ...], content: Any, prior: TokenPrior, *, lists: bool = True
) -> Edit | None:
    """The prior at the end of a content."""
    if content is None:
        return Edit(path=path, value=prior.text, insert=False)
    if isinstance(content, str):
        if prior.text in content:
            return None
        return Edit(path=(*path, len(content)), value=prior.conditioned(content)[len(content) :], insert=True)
    if lists and isinstance(content, list):
        if any(prior.text in text for text in _texts(content)):
            return None
        # Servers join parts with nothing in between.
        part = {"type": _PART_TYPES[api], "text": ("\n\n" if content else "") + prior.text}
        return Edit(path=(*path, len(content)), value=part, insert=True)
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]
    raise ValueError(f"{where} must be a text{' or a list of parts' if lists else ''}")


def conditioned(api: Api, body: dict[str, Any], prior: TokenPrior) -> dict[str, Any]:
    """The request with the prior in its place. What does not change is shared with `body`, which stays as it was.

    Raises:
        ValueError: as `placed`.
    """
    edit = placed(api, body, prior)
    changed: dict[str, Any] = body if edit is None else _changed(body, edit.path, edit)
    return changed


def _changed(value: Any, path: tuple[str | int, ...], edit: Edit) -> Any:
    place: Any = path[0]
    if len(path) > 1:
        copy = value.copy()
        copy[place] = _changed(value[place], path[1:], edit)
        return copy
    if not edit.insert:
        return {**value, place: edit.value}
    if isinstance(value, str):
        return value[:place] + edit.value + value[place:]
    return [*value[:place], edit.value, *value[place:]]


def user_texts(api: Api, body: Any) -> tuple[str, ...]:
    """What the user says in a request, message by message; those without a text are left out. Never raises."""
    listed = body.get("input" if api == "responses" else "messages") if isinstance(body, dict) else None
    if isinstance(listed, str):
        return (listed,)
    said = [
        message.get("content")
        for message in (listed if isinstance(listed, list) else ())
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    texts = [one if isinstance(one, str) else "\n".join(_texts(one)) for one in said if isinstance(one, str | list)]
    return tuple(text for text in texts if text)


def _texts(parts: list[Any]) -> list[str]:
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]

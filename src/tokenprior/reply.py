"""Reply: from the text a learning model sent to the JSON value it meant.

In this order: the whole text; every fenced block and every balanced `{...}` or `[...]`, those that parse as they
stand before those that need mending. Mending (comments, trailing commas, single quotes, missing ends) is json-repair's
work. What we add is LaTeX with one backslash written for two: `\\frac` would else be read as a form feed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


class Malformed(Exception):
    """A reply does not hold what was asked for. Caught where the model can be asked again; never leaves a verb."""


MAX_CHARS = 200_000  # A model in a loop can write without end; what stands behind this was not meant.

# LaTeX commands that begin like a JSON escape (\b \f \n \r \t \u). Any other \x is not valid JSON and always doubled.
_LATEX = re.compile(
    r"\\(?=(?:b(?:eta|ar|inom|ig|igl|igr|oxed|f|egin|mod|ullet|ot|ackslash|ecause)|f(?:rac|orall|lat|loor|box)"
    r"|n(?:u|eq|e|ot|otin|abla|eg|ewline|ormalsize|mid|leq|geq)"
    r"|r(?:ight|ho|angle|ceil|floor|m|vert|brace|brack|ightarrow)"
    r"|t(?:ext|heta|imes|an|anh|o|au|riangle|op|frac|extbf|extit|extrm|ilde|herefore|binom)"
    r"|u(?:nderline|nion|parrow|psilon|nderbrace|plus))(?![a-zA-Z]))"
)
_BAD_ESCAPE = re.compile(r"\\(?![\"\\/bfnrtu]|$)|\\u(?![0-9a-fA-F]{4})")
_FENCE = re.compile(r"```[a-zA-Z0-9_-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)


def parse_json(text: str) -> Any:
    """The JSON value of a learning reply: fenced or bare, first or last block, text around it, mended if need be.

    Raises:
        Malformed: if no list or object can be made out.
    """
    text = text[:MAX_CHARS].replace("\x00", "")
    if not text.strip():
        raise Malformed("the reply is empty")
    for candidate in _candidates(text):
        try:
            value = json.loads(_latex(candidate), strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list | dict):
            return value
    from json_repair import repair_json

    for candidate in _candidates(text):
        if not any(mark in candidate for mark in "{["):
            continue
        try:
            value = repair_json(_latex(candidate), return_objects=True, skip_json_loads=True)
        except (ValueError, RecursionError, TypeError, IndexError, KeyError):
            continue
        if isinstance(value, list | dict) and value:
            return value
    raise Malformed("the reply holds no JSON")


def _latex(text: str) -> str:
    """Double the backslashes that were meant as such."""
    pieces = re.split(r"(\\\\)", text)
    return "".join(
        piece if piece == "\\\\" else _BAD_ESCAPE.sub(lambda m: "\\" + m[0], _LATEX.sub(r"\\\\", piece))
        for piece in pieces
    )


def _candidates(text: str) -> Iterator[str]:
    yield text.strip()
    fenced = [block.strip() for block in _FENCE.findall(text) if block.strip()]
    yield from reversed(fenced)  # a model that corrects itself means its last block
    spans = _balanced(text)
    yield from sorted(spans, key=len, reverse=True)[:8]
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    if starts:
        yield text[min(starts) :]


def _balanced(text: str) -> list[str]:
    """The outermost balanced `[...]` and `{...}` of a text, strings inside them respected."""
    spans: list[str] = []
    depth, start, in_string, escaped = 0, 0, False, False
    for at, char in enumerate(text):
        if in_string:
            in_string, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"' and depth:
            in_string = True
        elif char in "[{":
            start, depth = (at, 1) if depth == 0 else (start, depth + 1)
        elif char in "]}" and depth:
            depth -= 1
            if depth == 0:
                spans.append(text[start : at + 1])
    return spans

"""Reply: from the text a learning model sent to the JSON value it meant.

In this order: the whole text; then its `{...}` and `[...]`, those that parse as they stand before those that need
mending. Comments and trailing commas are taken out here, where strings are known; the rest of mending (single quotes,
missing ends) is json-repair's work. What we add is LaTeX with one backslash written for two: `\\frac` would else be
read as a form feed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Malformed(Exception):
    """A reply does not hold what was asked for. Caught where the model can be asked again; never leaves a verb."""


MAX_CHARS = 200_000  # A model in a loop can write without end; what stands behind this was not meant.
MAX_DEPTH = 32  # What is nested deeper is replaced by an ellipsis.
MAX_MENDED_BRACKETS = 4_000  # json-repair took 12 s for 50,000 brackets that do not match.

CUT = "(cut off)"  # the one key of the object that stands for what a reply left incomplete

# LaTeX commands that begin like a JSON escape. Nobody means \b, \f or \r before a letter; for \n and \t, which are
# meant often, commands are named. Any other \x is not valid JSON and always doubled.
_LATEX = re.compile(
    r"\\(?=[bfr][a-zA-Z]"
    r"|n(?:abla|atural|cong|e|earrow|eg|eq|ewline|exists|geq|i|leq|mid|onumber|ormalsize|ot|otag|otin|parallel|parallel"
    r"|prec|rightarrow|sim|subseteq|u|warrow)(?![a-zA-Z])"
    r"|t(?:ag|an|anh|au|binom|ext|ext(?:bf|color|it|md|normal|rm|sc|sf|style|superscript|tt|up)|frac|g|herefore|heta"
    r"|hickapprox|ilde|imes|iny|o|op|riangle|riangle(?:down|left|lefteq|q|right|righteq))(?![a-zA-Z]))"
)
_BAD_ESCAPE = re.compile(r"\\(?![\"\\/bfnrtu]|$)|\\u(?![0-9a-fA-F]{4})")
_FENCE = re.compile(r"```[a-zA-Z0-9_-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_INSIDE = re.compile(
    r"""(?P<string>"[^"\\]*(?:\\.[^"\\]*)*(?P<closed>")?|(?:(?<=[\[{,:])|(?<=[\[{,:]\s))'.{0,600}?'(?=\s*[,:\]}]))"""
    r"""|(?P<skip>//[^\n]*|\#[^\n]*|/\*.*?(?:\*/|\Z)|,(?=(?:\s|//[^\n]*\n|/\*.*?\*/)*[\]}]))|(?P<bracket>[\[\]{}])""",
    re.DOTALL,
)


def parse_json(text: str) -> Any:
    """The JSON value of a learning reply: fenced or bare, first or last block, text around it, mended if need be.

    Raises:
        Malformed: if no list or object can be made out.
    """
    text = _bounded(text)
    if (whole := _strict(text)) is not None:
        return whole
    spans = _ranked(text)
    for read in (_strict, _mended):
        for span in spans:
            value = read(span.text)
            if value is not None:
                return value
    if "{" in text and (value := _mended(text)) is not None:
        return value
    raise Malformed("the reply holds no JSON")


def parse_items(text: str, *, wrappers: Sequence[str], marks: Sequence[str]) -> list[Any]:
    """The list that was asked for: a list, one object, objects one after another, or a list inside wrapping objects.

    Args:
        wrappers: keys under which models put the list.
        marks: keys by which an object of the list is known.

    Returns:
        The items in their order, whatever they are. An item that the reply broke off in the middle of a text becomes
        `{CUT: its beginning}`: half a sentence is not what was meant.

    Raises:
        Malformed: if no list or object can be made out.
    """
    text = _bounded(text)

    def known(item: object) -> bool:
        return isinstance(item, Mapping) and any(str(key).casefold().strip() in marks for key in item)

    if (whole := _strict(text)) is not None:
        return _flat(whole, wrappers, known)
    lists: list[list[Any]] = []
    single: list[Any] = []
    others: list[tuple[bool, bool, int, list[Any]]] = []
    spans = _spans(text)
    for span in spans:
        if span.broken:
            continue
        value = _piecewise(span.text, lambda value: any(map(known, _flat(value, wrappers, known))))
        if value is None:
            continue
        items = _flat(value, wrappers, known) + ([{CUT: span.rest}] if span.rest else [])
        if known(value):
            single.extend(items)
        elif any(map(known, items)):
            lists.append(items)
        else:
            others.append((isinstance(value, dict), not items, len(span.text), items))
    if lists:
        return lists[-1]  # a model that corrects itself means its last one
    if single:
        return single
    if spans and spans[-1].broken:
        raise Malformed("the reply was cut off before its first object was whole")
    if "{" in text and any(map(known, items := _flat(_mended(text) or [], wrappers, known))):
        return items
    if others:
        return max(others, key=lambda other: other[:3])[3]  # a wrapping object, an empty list, or what is longest
    raise Malformed("the reply holds no JSON list of objects")


def _piecewise(text: str, meant: Callable[[Any], bool], depth: int = 0) -> Any:
    """A value that is mended no further up than need be: json-repair may spoil what is whole beside a broken part."""
    value = _strict(text)
    if value is None and depth < 3:
        inside = [_piecewise(span.text, meant, depth + 1) for span in _spans(text[1:-1])]
        if any(piece is not None and meant(piece) for piece in inside):
            value = [piece for piece in inside if piece is not None]
    return _mended(text) if value is None else value


def _flat(value: Any, wrappers: Sequence[str], known: Any) -> list[Any]:
    if isinstance(value, list):
        nested = (_flat(item, wrappers, known) if isinstance(item, list | Mapping) else [item] for item in value)
        return [item for items in nested for item in items]
    lowered = {str(key).casefold().strip(): inner for key, inner in value.items()}
    for name in wrappers:
        if isinstance(lowered.get(name), list | Mapping):
            return _flat(lowered[name], wrappers, known)
    if known(value):
        return [value]
    inside = [_flat(inner, wrappers, known) for inner in value.values() if isinstance(inner, list | Mapping)]
    inside = [items for items in inside if any(map(known, items))]
    if inside:
        return [item for items in inside for item in items]
    return [value] if value else []


def _bounded(text: str) -> str:
    text = text[:MAX_CHARS].replace("\x00", "").strip()
    if not text:
        raise Malformed("the reply is empty")
    return text


def _strict(text: str) -> Any:
    """A list or an object that parses as it stands, or `None`."""
    try:
        value = json.loads(_latex(text), strict=False)
    except (ValueError, RecursionError):
        return None
    return _clean(value) if isinstance(value, list | dict) else None


def _mended(text: str) -> Any:
    """A list or an object with something in it after json-repair, or `None`."""
    if text.count("[") + text.count("{") > MAX_MENDED_BRACKETS:
        return None
    from json_repair import repair_json

    try:
        value = repair_json(_latex(text), return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError, TypeError, IndexError, KeyError, AttributeError):
        return None
    return _clean(value) if isinstance(value, list | dict) and value else None


def _clean(value: Any, depth: int = 0) -> Any:
    """A value that can be shown, hashed and stored: not nested without end, no NUL, no half of a surrogate pair."""
    if isinstance(value, str):
        value = value.replace("\x00", "")
        if any("\ud800" <= char <= "\udfff" for char in value):
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if not isinstance(value, list | dict):
        return value
    if depth == MAX_DEPTH:
        return "…"
    if isinstance(value, list):
        return [_clean(inner, depth + 1) for inner in value]
    return {_clean(key): _clean(inner, depth + 1) for key, inner in value.items()}


def _latex(text: str) -> str:
    """Double the backslashes that were meant as such."""
    pieces = re.split(r"(\\\\)", text)
    return "".join(
        piece if piece == "\\\\" else _BAD_ESCAPE.sub(lambda m: "\\" + m[0], _LATEX.sub(r"\\\\", piece))
        for piece in pieces
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """One outermost `[...]` or `{...}`, without comments and trailing commas.

    Attributes:
        at: where it starts in the text.
        text: where the reply broke off, closed behind the last object that is whole.
        rest: what was cut away then.
        broken: it broke off in the middle of a text, and no object in it is whole.
    """

    at: int
    text: str
    rest: str = ""
    broken: bool = False


def _ranked(text: str) -> list[_Span]:
    """Spans by how likely they are meant: those of the last fenced block, then the longest, of equals the last."""
    fences = list(_FENCE.finditer(text))
    begin, end = (fences[-1].start(1), fences[-1].end(1)) if fences else (0, 0)
    return sorted(_spans(text), key=lambda span: (not begin <= span.at < end, -len(span.text), -span.at))[:8]


def _spans(text: str) -> list[_Span]:
    """The outermost brackets of a text, strings inside them respected."""
    spans: list[_Span] = []
    at = 0
    while opening := _OPENING.search(text, at):
        start = at = opening.start()
        parts: list[str] = []
        stack: list[str] = []
        whole: tuple[int, int, str] | None = None  # behind the last whole object: parts, place, brackets that are open
        in_string = False
        while token := _INSIDE.search(text, at):
            parts.append(text[at : token.start()])
            at = token.end()
            if token["skip"]:
                continue
            parts.append(token[0])
            if token["string"]:
                in_string = token[0][0] == '"' and token["closed"] is None
            elif token[0] in "[{":
                stack.append(token[0])
            else:
                stack.pop()
                if not stack:
                    break
                if token[0] == "}":
                    whole = (len(parts), at, "".join(stack))
        if not stack:
            spans.append(_Span(at=start, text="".join(parts)))
            continue
        spans.append(_unclosed(start, text, at, parts, stack, whole, in_string))
        break
    return spans


def _unclosed(
    start: int,
    text: str,
    at: int,
    parts: list[str],
    stack: list[str],
    whole: tuple[int, int, str] | None,
    in_string: bool,
) -> _Span:
    """The span of a reply that breaks off. json-repair would spoil what is whole, so that is closed by us."""
    full = "".join(parts) + text[at:]
    closed = full.rstrip().rstrip(",") + _closing(stack)
    if not in_string and _strict(closed):
        return _Span(at=start, text=closed)
    if whole is None:
        return _Span(at=start, text=full, broken=in_string)
    count, place, still_open = whole
    rest = text[place:].strip(" \n\t,]}`")
    return _Span(at=start, text="".join(parts[:count]) + _closing(still_open), rest=rest)


def _closing(brackets: Sequence[str]) -> str:
    return "".join("]" if bracket == "[" else "}" for bracket in reversed(brackets))

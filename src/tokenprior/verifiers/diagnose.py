"""Diagnose: how what was read differs from what was wanted, in words a small learning model can use.

Pure, general and short. The first of these that holds is said:

1. nothing was read: cut off at the token limit, the wanted answer standing somewhere else, or nothing at all;
2. the same words: in other letter case, separated differently, in another order, or both;
3. the same but for spaces, punctuation or quoting;
4. the wanted answer inside what was read, or elsewhere in the attempt;
5. some words missing, or too many;
6. cut off at the token limit;
7. another answer, in the right form or in another form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MAX_SHOWN = 200
_MARKS = "\"'`*_“”‘’«»()[]{}<>.,;:!?$\\"
_BULLET = re.compile(r"^[ \t]*(?:\(?[0-9]{1,3}[.)]|[-*•–])[ \t]+", re.MULTILINE)
_INLINE_NUMBER = re.compile(r"(?:^|(?<=\s))\(?[0-9]{1,3}[.)](?=\s)")
_NO_LETTER = re.compile(r"[\W_]+")
_JOINTS = re.compile(r"[\s,;|/]+")


def quoted(text: str, limit: int = MAX_SHOWN) -> str:
    """A text on one line in quotes, cut to `limit` characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")
    return f'"{text[:limit]}…" (cut)' if len(text) > limit else f'"{text}"'


def quoted_all(texts: Sequence[str], joint: str = " or ") -> str:
    """Up to three texts in quotes, and how many more there are."""
    shown = joint.join(quoted(text) for text in texts[:3])
    return f"{shown} ({len(texts) - 3} more)" if len(texts) > 3 else shown


def wrong(*, place: str, read: str | None, wanted: Sequence[str], diagnosis: str) -> str:
    """Feedback for a wrong answer: where it was read, what, what was wanted, and how they differ."""
    found = f"Read from {place}: {quoted(read) if read is not None else 'nothing'}."
    return f"{found} Wanted: {quoted_all(wanted)}. {diagnosis[:1].upper()}{diagnosis[1:]}."


def diagnose(*, wanted: Sequence[str], read: str | None, output: str, place: str, is_cut_off: bool = False) -> str:
    """How the attempt missed, in one clause without a final period.

    Args:
        wanted: the accepted answers; the one that explains the miss best is used.
        read: what was taken from the place; `None` for nothing.
        output: the whole output.
        place: the place in words, such as `the last line`.
        is_cut_off: whether the output ended at its token limit.
    """
    cut_off = "the attempt was cut off at its token limit before it ended"
    elsewhere = next((words for answer in wanted if (words := _elsewhere(answer, output, place))), "")
    if read is None:
        return cut_off if is_cut_off else elsewhere or f"nothing was found in {place}, where the answer is read"
    for check in (_letter_case, _same_words, _surface):
        for answer in wanted:
            if words := check(answer, read):
                return words
    for answer in wanted:
        if stands_in(answer, read):
            return f"the wanted answer stands in {place}, but not alone"
    if is_cut_off:
        return cut_off
    has_form = any(_form(answer) == _form(read) for answer in wanted)
    # One word in the right form is a wrong answer; that the right word was mentioned on the way explains nothing.
    if elsewhere and not (has_form and len(read.split()) == 1):
        return elsewhere
    partly = next((words for answer in wanted if (words := _partly(answer, read))), "")
    return partly or ("another answer, in the right form" if has_form else "another answer, in another form")


def stands_in(answer: str, text: str) -> bool:
    """Whether the answer occurs in the text as whole words, letter case aside."""
    answer, text = answer.strip().casefold(), text.casefold()
    if not answer:
        return False
    before = r"(?<!\w)(?<!\d[.,])" if answer[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if answer[-1].isalnum() else ""
    return re.search(before + re.escape(answer) + after, text) is not None


def _elsewhere(answer: str, output: str, place: str) -> str:
    if stands_in(answer, output):
        return f"the wanted answer stands in the attempt, but not alone in {place}"
    wanted, words = _words(answer), _words(output)
    if len(wanted) > 1 and _run_in(wanted, words):
        return f"the words of the wanted answer stand in the attempt {_joints(output)}, but not all in {place}"
    return ""


def _letter_case(answer: str, read: str) -> str:
    return "it differs only in letter case" if answer.strip().casefold() == read.strip().casefold() else ""


def _surface(answer: str, read: str) -> str:
    if "".join(answer.split()) == "".join(read.split()):
        return "it differs only in spaces or line breaks"
    wanted, letters = _letters(answer), _letters(read)
    if wanted and wanted == letters:
        return "it differs only in punctuation or quoting"
    if wanted and wanted.casefold() == letters.casefold():
        return "it differs only in punctuation or quoting, and letter case"
    return ""


def _same_words(answer: str, read: str) -> str:
    wanted, words = _words(answer), _words(read)
    if len(wanted) < 2 or Counter(wanted) != Counter(words):
        return ""
    theirs, ours = _joints(read), _joints(answer)
    if wanted != words:
        apart = f" and separated differently: {theirs}, wanted {ours}" if theirs != ours else ""
        return f"the same words, but in another order{apart}"
    if theirs != ours:
        return f"the same words in the right order, but separated differently: {theirs}, wanted {ours}"
    return ""


def _partly(answer: str, read: str) -> str:
    wanted, words = Counter(_words(answer)), Counter(_words(read))
    if wanted.total() < 3:
        return ""
    missing, extra = (wanted - words).total(), (words - wanted).total()
    if missing > wanted.total() / 2 or extra > wanted.total():
        return ""
    parts = [f"{missing} of {wanted.total()} wanted words are missing"] if missing else []
    parts += [f"{extra} words are not wanted"] if extra else []
    return " and ".join(parts)


def _joints(text: str) -> str:
    """What stands between the items of a list, in words."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return "one per line, with a number or a mark before each" if _BULLET.search(text) else "one per line"
    if len(_INLINE_NUMBER.findall(text)) > 1:
        return "numbered"
    for mark, words in ((",", "by commas"), (";", "by semicolons"), ("|", "by bars"), ("/", "by slashes")):
        if mark in text.strip(" .,;"):
            return words
    return "by spaces"


def _words(text: str) -> list[str]:
    text = _INLINE_NUMBER.sub(" ", _BULLET.sub("", text)) if len(text) > 4 else text
    return [word for part in _JOINTS.split(text.casefold()) if (word := part.strip(_MARKS) or part)]


def _run_in(wanted: list[str], words: list[str]) -> bool:
    return "\0" + "\0".join(wanted) + "\0" in "\0" + "\0".join(words) + "\0"


def _letters(text: str) -> str:
    return _NO_LETTER.sub("", text)


def _form(text: str) -> tuple[str, int]:
    """What kind of text it is, roughly: its number of words, and whether it is a number."""
    words = text.split()
    is_number = bool(re.fullmatch(r"[-+−$]?[0-9][0-9.,]*%?", text.strip()))
    # Beyond a few words an answer is a text, whatever its length.
    return ("number" if is_number else "code" if text.lstrip().startswith(("{", "[", "<")) else "text"), min(
        len(words), 6
    )

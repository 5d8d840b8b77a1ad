"""Quotes: which of many tasks a text quotes, in a moment and without keeping every piece of every question.

Of each question every fifth piece of four words is kept, and no two words more: any eight words in a row hold one of
them. What may be quoted is then looked at in full, so that the answer is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from tokenprior.experience import words
from tokenprior.task import Task

SIZE = 8
_PIECE = 4
_STRIDE = SIZE - _PIECE + 1


class Quotes:
    """The questions of some tasks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._texts: list[str] = []
        self._places: dict[int, list[int]] = {}
        for place, task in enumerate(tasks):
            tokens = words(task.question)
            self._texts.append(_spaced(tokens))
            for at in range(0, len(tokens) - _PIECE + 1, _STRIDE):
                self._places.setdefault(hash(tuple(tokens[at : at + _PIECE])), []).append(place)

    def source(self, tokens: Sequence[str]) -> Task | None:
        """The task of which `SIZE` words in a row stand in a text, `None` if there is none.

        Wordings that several questions share are the form of the task set, not the content of one of them.

        Args:
            tokens: the words of the text.
        """
        for at in range(len(tokens) - SIZE + 1):
            window = tokens[at : at + SIZE]
            pieces = (hash(tuple(window[start : start + _PIECE])) for start in range(_STRIDE))
            near = {place for piece in pieces for place in self._places.get(piece, ())}
            quote = _spaced(window)
            of = (self._tasks[place] for place in sorted(near) if quote in self._texts[place])
            first = next(of, None)
            if first is not None and all(task.text_key == first.text_key for task in of):
                return first
        return None


def runs(tokens: Sequence[str], sizes: Collection[int]) -> Iterator[str]:
    """All so many words in a row of a text, for each of some sizes."""
    for size in sorted(sizes):
        for at in range(len(tokens) - size + 1):
            yield " ".join(tokens[at : at + size])


def _spaced(tokens: Sequence[str]) -> str:
    return f" {' '.join(tokens)} "

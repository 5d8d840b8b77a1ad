"""Relevance: which lessons concern the task at hand, by the words they share with it.

Source: BM25, Robertson and Zaragoza, "The Probabilistic Relevance Framework", Foundations and Trends in Information
Retrieval 3 (2009), with k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tokenprior.experience import words

K1, B = 1.2, 0.75
# Words that hold English sentences together concern no task. In other languages the rarity of a word has to do.
# fmt: off
FUNCTION_WORDS = {
    "a", "an", "and", "any", "are", "as", "asked", "at", "be", "by", "for", "from", "give", "given", "have", "if", "in",
    "into", "is", "it", "its", "not", "of", "on", "or", "so", "task", "than", "that", "the", "their", "then", "there",
    "this", "to", "use", "was", "were", "what", "when", "where", "which", "who", "will", "with", "you", "your",
}
# fmt: on


def relevance(question: str, lessons: Sequence[str]) -> list[float]:
    """How much each lesson has to do with a question: 0 for no word in common, more for rarer ones."""
    documents = [Counter(words(lesson)) for lesson in lessons]
    mean_length = sum(document.total() for document in documents) / max(1, len(documents)) or 1.0
    holding = Counter(word for document in documents for word in document)
    asked = set(words(question)) - FUNCTION_WORDS
    scores: list[float] = []
    for document in documents:
        damping = K1 * (1 - B + B * document.total() / mean_length)
        scores.append(
            sum(
                math.log(1 + (len(documents) - holding[word] + 0.5) / (holding[word] + 0.5))
                * (document[word] * (K1 + 1) / (document[word] + damping))
                for word in sorted(asked & document.keys())
            )
        )
    return scores

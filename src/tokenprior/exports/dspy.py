"""A DSPy program state: the JSON that `program.save("state.json")` writes and `program.load("state.json")` takes.

The prior stands at the end of the instructions of each predictor. Without an existing state it is that of a
`dspy.Predict` of any signature; a program of several parts has names that only its own state knows.
"""

from __future__ import annotations

import json
from typing import Any

from tokenprior.errors import DataError
from tokenprior.exports.base import Around, Reading
from tokenprior.exports.prompt import holds_prior, lessons_in, with_prior
from tokenprior.library import Library


def dumps(library: Library, around: Around) -> str:
    if around.into is None:
        state: Any = {
            "traces": [],
            "train": [],
            "demos": [],
            # No field is named, so those of the program stay.
            "signature": {"instructions": around.instructions, "fields": []},
            "lm": None,
            # DSPy warns of other versions than those that saved a state; none did.
            "metadata": {"dependency_versions": {}},
        }
    else:
        state = json.loads(around.into)
    for signature in _signatures(state):
        signature["instructions"] = with_prior(library, signature["instructions"])
    return json.dumps(state, indent=2, ensure_ascii=False) + "\n"


def loads(content: str, run: str) -> Reading:
    """Raises DataError if the content is no state, or no instructions in it hold a prior."""
    texts = [signature["instructions"] for signature in _signatures(json.loads(content))]
    return lessons_in(next(filter(holds_prior, texts), ""), run)


def is_state(value: Any) -> bool:
    return bool(_found(value))


def _signatures(state: Any) -> list[dict[str, Any]]:
    """The signatures of a state, of a predictor or of a program of predictors, to be changed in place."""
    found = _found(state)
    if not found:
        raise DataError("expected the state of a DSPy program, JSON with a `signature.instructions` for each predictor")
    return found


def _found(state: Any) -> list[dict[str, Any]]:
    predictors = [state, *state.values()] if isinstance(state, dict) else []
    signatures = [predictor.get("signature") for predictor in predictors if isinstance(predictor, dict)]
    return [
        signature
        for signature in signatures
        if isinstance(signature, dict) and isinstance(signature.get("instructions"), str)
    ]

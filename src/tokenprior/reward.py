"""Reward: what a verifier says of one attempt. A number with its reason, or unscored with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One verdict on one rollout.

    Attributes:
        value: any finite number, higher is better (most verifiers give 0.0 to 1.0); `None` is *unscored*,
            which is not zero and never enters a mean or a contrast.
        reason: why it is unscored; empty where there is a value.
        extracted: the answer the verifier read from the output, or `None` if it found none.
        feedback: words for the learning model. May contain the reference answer, so ground-truth-free learning
            shows none of it.
    """

    value: float | None
    reason: str = ""
    extracted: str | None = None
    feedback: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("an unscored reward needs a reason")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a reward is a finite number, not {self.value!r}")

    @classmethod
    def unscored(cls, reason: str) -> Reward:
        """A reward that says only why there is none."""
        return cls(value=None, reason=reason or "no reason given")

    @property
    def is_scored(self) -> bool:
        return self.value is not None

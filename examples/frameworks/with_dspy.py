"""A module of DSPy, as it is. It needs no `dspy.configure`: tokenprior gives it a model for each attempt.

agent: {kind: function, function: "examples/frameworks/with_dspy.py:module", model: "openai:gpt-5-mini"}
"""

import dspy


class Arithmetic(dspy.Signature):
    """Solve the arithmetic task. Use the tool for every product."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField(desc="the number alone")


def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b


module = dspy.ReAct(Arithmetic, tools=[multiply])

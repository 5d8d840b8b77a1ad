"""An agent of pydantic-ai, as it is. It needs no model: tokenprior gives it one for each attempt.

agent: {kind: function, function: "examples/frameworks/with_pydantic_ai.py:agent", model: "openai:gpt-5-mini"}
"""

from pydantic_ai import Agent

agent = Agent(instructions="You solve arithmetic tasks. Use the tool for every product. Reply with the number alone.")


@agent.tool_plain
def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b

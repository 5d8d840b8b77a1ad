"""An agent of the OpenAI Agents SDK, as it is. It needs no model: tokenprior gives it one for each attempt.

agent: {kind: function, function: "examples/frameworks/with_openai_agents.py:agent", model: "openai:gpt-5-mini"}
"""

from agents import Agent, function_tool


@function_tool
def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b


agent = Agent(
    name="arithmetic",
    instructions="You solve arithmetic tasks. Use the tool for every product. Reply with the number alone.",
    tools=[multiply],
)

"""An agent of LangChain, which is a graph of LangGraph. It holds its model, so it is made for each attempt.

agent: {kind: function, function: "examples/frameworks/with_langgraph.py:make", model: "openai:gpt-5-mini"}
"""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI


def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b


def make(seat):
    model = ChatOpenAI(model="default", base_url=seat.base_url, api_key=seat.api_key, max_retries=0)
    prompt = "You solve arithmetic tasks. Use the tool for every product. Reply with the number alone."
    return create_agent(model, tools=[multiply], system_prompt=prompt)

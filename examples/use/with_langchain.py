"""A chat model of LangChain with a learned library: for calls, chains, tools, structured output and agents.

library.json: tokenprior export RUN --form json --to library.json
"""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

import tokenprior as tp

model = tp.wrap(ChatOpenAI(model="gpt-5-mini"), "library.json")

agent = create_agent(model, tools=[], system_prompt="Process the input.")
print(agent.invoke({"messages": [{"role": "user", "content": "goose"}]})["messages"][-1].text)

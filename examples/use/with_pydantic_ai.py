"""An agent of pydantic-ai with a learned library, whichever model it runs with.

library.json: tokenprior export RUN --form json --to library.json
"""

from pydantic_ai import Agent

import tokenprior as tp

agent = Agent("openai-chat:gpt-5-mini", instructions="Process the input.")
learned = tp.wrap(agent, "library.json")

print(learned.run_sync("goose").output)

"""OpenAI's client with a learned library: one line more, and every call of the client has it.

library.json: tokenprior export RUN --form json --to library.json
"""

from openai import OpenAI

import tokenprior as tp

client = tp.wrap(OpenAI(), "library.json")

said = [{"role": "system", "content": "Process the input."}, {"role": "user", "content": "goose"}]
print(client.chat.completions.create(model="gpt-5-mini", messages=said).choices[0].message.content)
print(client.responses.create(model="gpt-5-mini", instructions="Process the input.", input="mouse").output_text)

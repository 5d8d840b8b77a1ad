"""Anthropic's client with a learned library: one line more, and every call of the client has it.

library.json: tokenprior export RUN --form json --to library.json
"""

from anthropic import Anthropic

import tokenprior as tp

client = tp.wrap(Anthropic(), "library.json")

said = [{"role": "user", "content": "goose"}]
with client.messages.stream(model="claude-sonnet-5", max_tokens=100, system="Process it.", messages=said) as stream:
    print("".join(stream.text_stream))

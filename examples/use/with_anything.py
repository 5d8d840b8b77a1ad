"""A learned library for whatever speaks HTTP: messages in, messages out.

library.json: tokenprior export RUN --form json --to library.json
"""

import json
import os
import urllib.request

import tokenprior as tp

said = [{"role": "system", "content": "Process the input."}, {"role": "user", "content": "goose"}]
body = {"model": "gpt-5-mini", "messages": tp.with_prior("library.json", said)}
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/chat/completions"
with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
    print(json.load(reply)["choices"][0]["message"]["content"])

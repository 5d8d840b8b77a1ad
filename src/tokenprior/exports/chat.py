"""Chat messages: the prior as the system message of the chat API, ready to be put before the user's."""

from __future__ import annotations

import json

from tokenprior.library import Library
from tokenprior.prior import TokenPrior


def dumps(library: Library) -> str:
    text = TokenPrior.of(library).text
    messages = [{"role": "system", "content": text}] if text else []
    return json.dumps(messages, indent=1, ensure_ascii=False) + "\n"

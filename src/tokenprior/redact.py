"""Redact: keys and tokens never reach the store, a log, an export or an error message.

Covered: the values of environment variables whose name says that they are secret, texts that look like a key of the
common providers or a bearer token, and in addresses the user part and values of parameters named like a secret. Not
covered: a secret that a user wrote into a task or a prompt.
"""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_LOOKS_SECRET = re.compile(
    # With a digit somewhere, or `sk-learn-based` would be a key; looked for no further than a key is long, or a text of
    # nothing but `sk-` takes a second for each 20 kB.
    r"\b(?:sk|pk|rk|xai|gsk|hf|ghp|gho|pat)[-_](?=[A-Za-z_*.-]{0,100}\d)[A-Za-z0-9_*.-]{8,}|\bAIza[0-9A-Za-z_-]{20,}|\bBearer\s+[^\s\"']{8,}"
)
_URL_USER = re.compile(r"(?<=://)[^/?#\s\"']+(?=@)")
_URL_VALUE = re.compile(
    r"(?<=[?&])((?:[A-Za-z0-9_.-]*(?:key|token|secret|password|passwd|pwd)))=[^&#\s\"']+", re.IGNORECASE
)


def without_own_secrets(text: str) -> str:
    """The text without what stands in secret variables of our environment; what only looks like a key stays. For what
    goes on being used, such as a page that was read."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "[redacted]")
    return text


def redact(text: str) -> str:
    """The text with every secret replaced by `[redacted]`."""
    text = without_own_secrets(text)
    text = _URL_VALUE.sub(r"\1=[redacted]", _LOOKS_SECRET.sub("[redacted]", text))
    return _URL_USER.sub("[redacted]", text)

"""Redact: keys and tokens never reach the store, a log, an export or an error message.

Covered: the values of environment variables whose name says that they are secret, and texts that look like a key of
the common providers or a bearer token. Not covered: a secret that a user wrote into a task or a prompt.
"""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_LOOKS_SECRET = re.compile(
    # With a digit somewhere, or `sk-learn-based` would be a key.
    r"\b(?:sk|pk|rk|xai|gsk|hf|ghp|gho|pat)[-_](?=[A-Za-z_*.-]*\d)[A-Za-z0-9_*.-]{8,}|\bAIza[0-9A-Za-z_-]{20,}|\bBearer\s+[^\s\"']{8,}"
)
_URL_USER = re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")


def redact(text: str) -> str:
    """The text with every secret replaced by `[redacted]`."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "[redacted]")
    return _URL_USER.sub("[redacted]", _LOOKS_SECRET.sub("[redacted]", text))

"""Redact: keys and tokens never reach the store, a log, an export or an error message.

Covered: the values of environment variables whose name says that they are secret, texts that look like a key of the
common providers, a bearer or JSON web token or a private key, and in addresses the user part and values of parameters
named like a secret. Not covered: a secret that a user wrote into a task or a prompt.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

_SECRET_NAME = re.compile(r"(?:^|_|^PG)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
# What keys look like, one pattern for each kind; `private.py` looks for the same ones.
KEYS = {
    "API key": re.compile(
        # With a digit somewhere, or `sk-learn-based` would be a key; looked for no further than a key is long, or a
        # text of nothing but `sk-` takes a second for each 20 kB.
        r"\b(?:sk|pk|rk|xai|gsk|hf|gh[opsru]|github_pat|pat|glpat|xox[a-z]|xapp)[-_]"
        r"(?=[A-Za-z_*.-]{0,100}\d)[A-Za-z0-9_*.-]{8,}"
        r"|\bnpm_[A-Za-z0-9]{36}\b|\b(?:AIza|GOCSPX-|ya29\.)[0-9A-Za-z_-]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
        r"|(?<=hooks\.slack\.com/services/)[0-9A-Za-z/]{20,}"
    ),
    "token": re.compile(
        r"\bBearer\s+[^\s\"']{8,}"
        # A JSON web token. It begins where no such character stands before it, or `eyJ-eyJ-...` takes n squared steps.
        r"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    ),
    "private key": re.compile(
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
        r"(?:[A-Za-z0-9+/=\s\\:,.]|-(?!-))*(?:-----END [A-Z ]{0,60}-----)?"
    ),
}
URL_USER = re.compile(r"(?<=://)[^/?#\s\"']+(?=@)")
# The password of a database may hold anything but a space and an `@`, as SQLAlchemy reads it.
DATABASE_USER = re.compile(r"\b(postgres(?:ql)?(?:\+\w+)?://)[^@\s\"']+(?=@)", re.IGNORECASE)
URL_VALUE = re.compile(
    r"(?<=[?&])((?:[A-Za-z0-9_.-]*(?:key|token|secret|password|passwd|pwd)))=[^&#\s\"']+", re.IGNORECASE
)


# What a text must hold to hold one of them: most hold nothing, and the patterns take half a millisecond for 2 kB.
_KEY_BODY = re.compile(r"[-_](?=[A-Za-z_*.-]{0,100}\d)[A-Za-z0-9_*.-]{8}")
_KEY_SIGNS = ("npm_", "AIza", "GOCSPX-", "ya29.", "AKIA", "ASIA", "hooks.slack.com/services/")


@lru_cache(maxsize=4096)
def _is_secret(variable: str) -> bool:
    return _SECRET_NAME.search(variable) is not None


def own_secrets() -> tuple[str, ...]:
    """What stands in secret variables of our environment."""
    named = [name for name in os.environ if _is_secret(name)]
    return tuple(value for name in named if len(value := os.environ.get(name, "").strip()) >= 8)


def without_own_secrets(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """The text without our own secrets; what only looks like a key stays. For what goes on being used, such as a page
    that was read.

    Args:
        secrets: what `own_secrets` gave just now, for many texts: the environment is slow to look through.
    """
    for secret in own_secrets() if secrets is None else secrets:
        text = text.replace(secret, "[redacted]")
    return text


def redact(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """The text with every secret replaced by `[redacted]`.

    Args:
        secrets: as for `without_own_secrets`.
    """
    text = without_own_secrets(text, secrets)
    if (("-" in text or "_" in text) and _KEY_BODY.search(text)) or any(sign in text for sign in _KEY_SIGNS):
        text = KEYS["API key"].sub("[redacted]", text)
    if "Bearer" in text or ".eyJ" in text:
        text = KEYS["token"].sub("[redacted]", text)
    if "-----BEGIN" in text:
        text = KEYS["private key"].sub("[redacted]", text)
    if "://" in text:
        text = DATABASE_USER.sub(r"\1[redacted]", text)
    if "=" in text and ("?" in text or "&" in text):
        text = URL_VALUE.sub(r"\1=[redacted]", text)
    return URL_USER.sub("[redacted]", text) if "://" in text else text

"""Access: who may come in, and with whose key a request goes on.

Covered: without client keys the proxy listens on loopback alone, where every page open in a browser can reach it too.
So a request for a host that is not this machine (a name that an attacker made point here) and one from a page of
another site are refused. With client keys every request needs one but `/health` and `/metrics` on loopback.

Not covered: other users of this machine where no client keys are set, and encryption: on an open network put a server
that ends TLS in front.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from tokenprior.agents.seat import Refused
from tokenprior.errors import ConfigError
from tokenprior.models.base import KEY_VARIABLE
from tokenprior.serve.proxy.settings import ServeConfig

CLIENT_KEYS = "TOKENPRIOR_CLIENT_KEYS"


def client_keys() -> tuple[bytes, ...]:
    """The keys that the environment gives to clients; none if it names none.

    Raises:
        ConfigError: the variable is set, and holds no key.
    """
    given = os.environ.get(CLIENT_KEYS)
    keys = tuple(key.strip().encode() for key in (given or "").split(",") if key.strip())
    if given is not None and not keys:
        raise ConfigError(f"{CLIENT_KEYS} is set and holds no key: give keys with commas between, or unset it")
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The keys, which no representation shows.

    Attributes:
        client_keys: one of them is asked of a client; empty asks for none.
        upstream_key: goes to the upstream in place of the client's; empty sends none of ours.
        local: whether only this machine can reach the server.
    """

    client_keys: tuple[bytes, ...] = field(default=(), repr=False)
    upstream_key: str = field(default="", repr=False)
    local: bool = True

    @classmethod
    def of_environment(cls, config: ServeConfig) -> Access:
        """The keys of the environment.

        Raises:
            ConfigError: a variable that is asked for is not set, or an open address has no client keys.
        """
        variable = config.key_variable
        if variable and not os.environ.get(variable):
            raise ConfigError(f"key_variable: the environment variable {variable} is not set")
        keys = client_keys()
        if not keys and not config.is_local:
            raise ConfigError(
                f"host {config.host}: others than this machine can reach it, so clients need keys: set {CLIENT_KEYS} "
                "to keys with commas between, or listen on 127.0.0.1"
            )
        return cls(client_keys=keys, upstream_key=os.environ.get(variable or KEY_VARIABLE, ""), local=config.is_local)

    @property
    def consumes(self) -> bool:
        """Whether the client's own `Authorization` goes no further."""
        return bool(self.client_keys or self.upstream_key)

    def admit(self, headers: Mapping[str, str], *, open_here: bool = False) -> None:
        """Let a request in.

        Args:
            open_here: whether it needs no key on loopback.

        Raises:
            Refused: it may not come in.
        """
        if self.local and not _is_here(f"//{headers.get('Host', '')}"):
            raise Refused(403, "this server answers to names of this machine only, such as localhost", "wrong_host")
        if self.client_keys:
            if not (open_here and self.local) and not self._knows(headers.get("Authorization", "")):
                raise Refused(401, "expected a client key: Authorization: Bearer KEY", "invalid_api_key")
        elif (origin := headers.get("Origin")) is not None and not _is_here(origin):
            words = f"pages of other sites may not use this server; with client keys ({CLIENT_KEYS}) they may"
            raise Refused(403, words, "wrong_origin")

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode("utf-8", "surrogateescape")
        # Every key is looked at, and as long, whichever it is.
        known = [hmac.compare_digest(given, one) for one in self.client_keys]
        return scheme.casefold() == "bearer" and any(known)


@lru_cache(maxsize=256)  # of few values, asked for with every request
def _is_here(address: str) -> bool:
    """Whether an address names this machine."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")

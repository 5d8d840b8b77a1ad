"""Settings of the proxy: `serve.yaml`, and what the command line says in its place."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from tokenprior.cli.show import is_file
from tokenprior.config import PriorSettings, read_yaml
from tokenprior.errors import ConfigError
from tokenprior.redact import redact
from tokenprior.settings import Count, Settings, explain

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ServedLibrarySettings(Settings):
    """One library.

    Attributes:
        library: a file, relative to the config, or `RUN`, `RUN:STEP` or `RUN:VERSION` of the store.
        models: patterns of the models that it is for, such as `gpt-5*`.
        prior: how much of it stands before a request; of a file only, for a run renders as it learned.
    """

    library: str
    models: tuple[str, ...] = ()
    prior: PriorSettings | None = None


class TrafficSettings(Settings):
    """What is kept of the requests that pass.

    Attributes:
        keep: whether their messages and replies are kept to learn from, masked. Ask whoever they belong to.
    """

    keep: bool = False


class LimitSettings(Settings):
    """What a client may take.

    Attributes:
        body_bytes: of one request; more is a 413.
        header_s: from the first byte of a request to the end of its headers.
        body_s: for the body.
        connect_s: to reach the upstream.
        idle_s: without a byte from the upstream, or of a stream to a client that does not read.
        in_flight: requests at the same time; one more is a 429.
        drain_s: for what is in flight when the server is told to stop.
    """

    body_bytes: Count = 32 * 1024 * 1024
    header_s: Seconds = 10.0
    body_s: Seconds = 60.0
    connect_s: Seconds = 10.0
    idle_s: Seconds = 600.0
    in_flight: Count = 1_000
    drain_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0


class ServeConfig(Settings):
    """A whole `serve.yaml`.

    Attributes:
        upstream: the base address of an OpenAI-compatible server, such as `https://HOST/v1`.
        key_variable: environment variable with the upstream's key; `TOKENPRIOR_API_KEY` by default.
        libraries: by the name that clients know them by; the first is for requests that want none by name.
        host: where the proxy listens; other addresses than loopback need client keys.
        port: 0 for any that is free.
        holdout: the share of the requests that go without a prior, drawn by lot.
        seed: of the lot.
        store: of runs, and of what is recorded; relative to the config.
    """

    upstream: str
    key_variable: str | None = None
    libraries: Annotated[dict[str, ServedLibrarySettings], Field(min_length=1)]
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8100
    holdout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    seed: int = 0
    traffic: TrafficSettings = TrafficSettings()
    limits: LimitSettings = LimitSettings()
    store: str = "tokenprior.db"

    @field_validator("libraries", mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: {"library": one} if isinstance(one, str) else one for name, one in value.items()}

    @field_validator("upstream")
    @classmethod
    def _base_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            known = bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
        except ValueError:
            known = False
        if not known or parts.query or parts.fragment or parts.username is not None or parts.password is not None:
            raise ValueError("expected http(s)://HOST/v1, with nothing behind it and no key in it")
        # What every OpenAI-compatible server has, where only its host was given.
        return value.rstrip("/") + ("" if parts.path.strip("/") else "/v1")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def records(self) -> bool:
        """Whether requests are written down."""
        return self.holdout > 0 or self.traffic.keep


def load_serve_config(path: Path | None, changes: Mapping[str, Any]) -> ServeConfig:
    """Read a config, if there is one; files that it names become relative to its folder.

    Args:
        changes: values by key that stand in place of the file's.

    Raises:
        ConfigError: one line: the file, the key, what was got and what was expected.
    """
    value = read_yaml(path) if path else {}
    try:
        config = ServeConfig.model_validate({**_beside(path.parent, value), **changes} if path else changes)
    except ValidationError as error:
        raise ConfigError(redact(f"{path or 'serve'}: {explain(error, ServeConfig)}")) from error
    return config


def _beside(folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    """A file's value with its paths seen from where we are."""
    moved = dict(value)
    store = value.get("store", "tokenprior.db")
    if isinstance(store, str) and "://" not in store:
        moved["store"] = str(folder / store)
    if isinstance(libraries := value.get("libraries"), dict):
        moved["libraries"] = {name: _library_beside(folder, one) for name, one in libraries.items()}
    return moved


def _library_beside(folder: Path, one: Any) -> Any:
    if isinstance(one, dict):
        return {**one, "library": _library_beside(folder, one["library"])} if "library" in one else one
    return str(folder / one) if isinstance(one, str) and is_file(str(folder / one)) else one

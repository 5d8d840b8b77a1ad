"""Run: the proxy from its settings to its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from tokenprior.cli.show import existing, is_file
from tokenprior.library import estimate_tokens
from tokenprior.models.base import KEY_VARIABLE
from tokenprior.redact import redact
from tokenprior.serve.libraries import Libraries, ServedLibrary
from tokenprior.serve.proxy.access import CLIENT_KEYS, Access
from tokenprior.serve.proxy.server import Proxy
from tokenprior.serve.proxy.settings import ServeConfig
from tokenprior.store import open_store
from tokenprior.store.served import ServedLog


@contextmanager
def proxy_of(config: ServeConfig) -> Iterator[Proxy]:
    """A proxy with its libraries and its store open; it does not listen yet.

    Raises:
        TokenpriorError: a library cannot be read, or a key is missing.
    """
    access = Access.of_environment(config)
    from_runs = any(not is_file(one.library) for one in config.libraries.values())
    if from_runs and not config.records:
        existing(config.store)
    with open_store(config.store) if from_runs or config.records else nullcontext() as store:
        served = [
            ServedLibrary(name, one.library, store, rendering=one.prior.rendering if one.prior else None)
            for name, one in config.libraries.items()
        ]
        libraries = Libraries(served, {name: one.models for name, one in config.libraries.items()})
        log = ServedLog(store.writer) if store is not None and config.records else None
        yield Proxy(config, libraries, access, served=log)


async def serve(proxy: Proxy, *, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
    """Listen until SIGTERM or SIGINT; then take no more, and let what is in flight end. A second signal cuts it off.

    Raises:
        ConfigError: the address cannot be had.
        StoreError: what was served last could not be written down.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stopped.is_set():
            proxy.hurry()
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, told)
        except NotImplementedError:  # on Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(told))
    async with proxy:
        on_ready()
        await stopped.wait()
        on_stop()


def described(proxy: Proxy) -> list[str]:
    """What is served, and with whose keys, line by line."""
    config, access = proxy.config, proxy.access
    lines = [_library_line(library) for library in proxy.libraries.by_name.values()]
    if len(lines) > 1:
        lines[0] += "; for requests that name none"
    own = f"the key in {config.key_variable or KEY_VARIABLE}"
    key = own if access.upstream_key else "no key" if access.client_keys else "the client's own key"
    lines.append(f"upstream {redact(config.upstream)}, with {key}")
    if access.client_keys:
        count = len(access.client_keys)
        lines.append(f"clients need {'the key' if count == 1 else f'one of the {count} keys'} in {CLIENT_KEYS}")
    if config.records:
        kept = ", messages and replies too, masked" if config.traffic.keep else ""
        lines.append(
            f"{config.holdout:.0%} of the requests go without a prior; recorded in {redact(config.store)}{kept}"
        )
    return lines


def _library_line(library: ServedLibrary) -> str:
    relevant = library.rendering.relevant
    if relevant is None:
        takes = f"about {estimate_tokens(library.whole.text)} tokens before each request"
    else:
        takes = f"at most {relevant + library.rendering.core} of them before each request"
    warning = "" if len(library.library) else " (nothing was learned yet: requests pass as they are until something is)"
    return f"{library.name}: {library.where}, version {library.version}, {library.count_words}, {takes}{warning}"

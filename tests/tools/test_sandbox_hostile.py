"""Code that was written to do harm is contained at every level this machine offers, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tokenprior
from tokenprior.task import Task
from tokenprior.tools.python import PythonTool
from tokenprior.tools.sandbox import LEVELS, probe

TASK = Task(id="t", question="q")
SECRET = "the-secret-of-this-test"
LINUX = sys.platform.startswith("linux")
SESSIONS = 4

# Every attack in a function of its own, so that one that fails does not end the others. Monty knows no `with` on
# sockets and few modules; there an attack ends at its import, which is containment.
TRY = """
def attempt(name, action):
    try:
        print(name, "->", repr(action())[:300])
    except BaseException as error:
        print(name, "!!", type(error).__name__)
"""


def test_at_least_one_level_works_on_this_machine() -> None:
    assert any(report.usable for report in probe()), probe()


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Any:
    report = next(report for report in probe() if report.name == request.param)
    if not report.usable:
        pytest.skip(f"{report.name}: {report.why}")
    return report.name


def children() -> set[int]:
    """Processes below this one that are not dead; the dead ones that were handed to us are reaped."""
    found: set[int] = set()
    for name in os.listdir("/proc") if LINUX else ():
        with contextlib.suppress(OSError, ValueError):
            state, parent = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid():
                found.add(int(name))
                if state == "Z":
                    os.waitpid(int(name), os.WNOHANG)
                    found.discard(int(name))
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """As a subreaper this process becomes the parent of whatever outlives its session, so that nothing can hide."""
    left_before = set(Path("/tmp").glob("tokenprior-python-*"))
    before = children()
    if LINUX:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    try:
        yield
        assert children() <= before
        assert {path for path in Path("/tmp").glob("tokenprior-python-*") if owned_by_nobody(path)} <= left_before
    finally:
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
        if LINUX:
            ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def owned_by_nobody(path: Path) -> bool:
    """Whether no process works there; other test runs on this machine have directories of their own."""
    for name in os.listdir("/proc") if LINUX else ():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/cwd").startswith(str(path)):
                return False
    return path.exists()


def talk(level: Any, *codes: str, **settings: Any) -> list[str]:
    """What the calls gave, and that the tool goes on after them."""

    async def session() -> list[str]:
        tool = PythonTool(level=level, **{"timeout_s": 10.0, **settings})
        texts = []
        async with tool.session(TASK) as python:
            for code in codes:
                texts.append(await python.call({"code": code}))
                again = await python.call({"code": "1 + 1"})
                if "stopped" in again:  # the harm came after its call had ended
                    again = await python.call({"code": "1 + 1"})
                # A child that was left may print beside it; where `sys.stdout` or all names are gone, nothing is.
                assert "2" in again.split() or "builtins" in code, (code, again)
        return texts

    return asyncio.run(session())


def together(level: Any, codes: list[str], **settings: Any) -> list[str]:
    """What each code gave, in a few sessions at a time; what does not lose its interpreter leaves it to the next."""
    with ThreadPoolExecutor(SESSIONS) as threads:
        parts = threads.map(lambda part: talk(level, *codes[part::SESSIONS], **settings), range(SESSIONS))
        texts = dict(zip((i for part in range(SESSIONS) for i in range(len(codes))[part::SESSIONS]),
                         (text for part in parts for text in part), strict=True))  # fmt: skip
    return [texts[i] for i in range(len(codes))]


def test_private_files_cannot_be_read(level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    key = tmp_path / ".ssh" / "id_rsa"
    key.write_text(SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Path(tokenprior.__file__).resolve()
    code = f"""{TRY}
for path in {[str(key), "/etc/shadow", "/etc/passwd", str(source), "/proc/self/cwd/../../etc/shadow"]!r}:
    attempt("read", lambda: open(path).read())
import os
attempt("list", lambda: os.listdir({str(tmp_path)!r}))
attempt("list", lambda: os.listdir({str(source.parent)!r}))
attempt("stat", lambda: os.open({str(key)!r}, os.O_PATH) and open("/proc/self/fd/3").read())
import subprocess
attempt("cat", lambda: subprocess.run(["cat", {str(key)!r}], capture_output=True).stdout)
"""
    (text,) = talk(level, code)
    assert SECRET not in text
    assert "root:" not in text
    assert "id_rsa" not in text
    assert text.count("read !! ") == 5
    assert "list ->" not in text


def test_the_environment_holds_no_secret(level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    code = f"""{TRY}
import os
attempt("environ", lambda: dict(os.environ))
attempt("getenv", lambda: os.getenv("OPENAI_API_KEY"))
for pid in [1, "self", {os.getpid()}, os.getppid() if hasattr(os, "getppid") else 1]:
    attempt("proc", lambda: open(f"/proc/{{pid}}/environ").read())
    attempt("memory", lambda: open(f"/proc/{{pid}}/mem", "rb").read(1))
import subprocess
attempt("env", lambda: subprocess.run(["env"], capture_output=True).stdout)
"""
    (text,) = talk(level, code)
    assert SECRET not in text
    assert "OPENAI" not in text.replace("OPENAI_API_KEY'", "")


def test_nothing_can_be_reached_over_a_socket(level: Any, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        ears = [tcp, udp, unix]
        if LINUX:
            abstract.bind(f"\0tokenprior-{os.getpid()}")
            abstract.listen()
            ears.append(abstract)
        code = f"""{TRY}
import socket
def to(family, address):
    with socket.socket(family) as end:
        end.settimeout(1)
        end.connect(address)
attempt("tcp", lambda: to(socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})))
attempt("unix", lambda: to(socket.AF_UNIX, {str(tmp_path / "s")!r}))
attempt("abstract", lambda: to(socket.AF_UNIX, "\\0tokenprior-{os.getpid()}"))
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"x", ("127.0.0.1", {udp.getsockname()[1]}))
attempt("udp", send)
def fast_open():
    with socket.socket() as end:
        end.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", {tcp.getsockname()[1]}))
attempt("fast open", fast_open)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
attempt("name", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].bind("\\0tokenprior-{os.getpid()}-in"))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
"""
        (text,) = talk(level, code)
        assert " -> " not in text
        for ear in ears:
            ear.setblocking(False)
            with pytest.raises(BlockingIOError):
                ear.recv(1) if ear is udp else ear.accept()


def test_nothing_outside_can_be_changed(level: Any, tmp_path: Path) -> None:
    file, new = tmp_path / "file", Path(f"/tmp/tokenprior-hostile-{os.getpid()}")
    file.write_text("as it was")
    file.chmod(0o640)
    facts = file.stat()
    code = f"""{TRY}
import os
F = {str(file)!r}
attempt("write", lambda: open(F, "w").write("x"))
attempt("append", lambda: open(F, "a").write("x"))
attempt("truncate", lambda: os.truncate(F, 0))
attempt("remove", lambda: os.remove(F))
attempt("rename", lambda: os.rename(F, F + "2"))
attempt("link in", lambda: os.link(F, "hard") or open("hard", "a").write("x"))
attempt("link out", lambda: open("own", "w").close() or os.link("own", F + "3"))
attempt("mkdir", lambda: os.mkdir(F + "4"))
attempt("chmod", lambda: os.chmod(F, 0o777))
attempt("chown", lambda: os.chown(F, 1, 1))
attempt("times", lambda: os.utime(F, (1, 1)))
attempt("attribute", lambda: os.setxattr(F, "user.x", b"x"))
attempt("new", lambda: open({str(new)!r}, "w").write("x"))
attempt("shm", lambda: open("/dev/shm/x{os.getpid()}", "w").write("x"))
attempt("package", lambda: open(os.__file__, "a").write("x"))
attempt("core", lambda: open("/proc/sys/kernel/core_pattern", "w").write("x"))
"""
    (text,) = talk(level, code)
    assert file.read_text() == "as it was"
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime, after.st_nlink) == (
        facts.st_mode,
        facts.st_uid,
        facts.st_mtime,
        1,
    )
    assert LINUX is False or os.listxattr(file) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert not new.exists()
    assert not Path(f"/dev/shm/x{os.getpid()}").exists()
    assert "package ->" not in text
    assert "core ->" not in text


def test_links_lead_nowhere(level: Any, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(SECRET)
    code = f"""{TRY}
import os
T = {str(target)!r}
for number, path in enumerate(["/etc/shadow", T, "/proc/self/root/etc/shadow", "/proc/1/root" + T]):
    attempt("link", lambda: os.symlink(path, f"link{{number}}"))
    attempt("read", lambda: open(f"link{{number}}").read())
    attempt("write", lambda: open(f"link{{number}}", "w").write("x"))
attempt("folder", lambda: os.symlink({str(tmp_path)!r}, "folder"))
attempt("below", lambda: open("folder/new", "w").write("x"))
attempt("up", lambda: open("../" * 20 + {str(target)!r}[1:]).read())
"""
    (text,) = talk(level, code)
    assert SECRET not in text
    assert "root:" not in text
    assert "read ->" not in text
    assert target.read_text() == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_other_processes_cannot_be_seen_or_hurt(level: Any) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGURG, lambda number, _: heard.append(number))  # ignored where nobody listens
    import resource

    limits = [resource.getrlimit(which) for which in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)]
    nice = os.getpriority(os.PRIO_PROCESS, os.getpid())
    try:
        code = f"""{TRY}
import os, signal, ctypes, resource
for pid in [{os.getpid()}, 1, -1, os.getppid(), -{os.getpgid(0)}]:
    attempt("urg", lambda: os.kill(pid, signal.SIGURG))
for pid in [{os.getpid()}, os.getppid()]:
    attempt("limit", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)) if pid > 1 else 1 / 0)
    attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19) if pid > 1 else 1 / 0)
    attempt("trace", lambda: ctypes.CDLL(None).ptrace(16, pid, 0, 0) and 1 / 0)
    attempt("root", lambda: os.listdir(f"/proc/{{pid}}/root/root"))
    attempt("files", lambda: os.readlink(f"/proc/{{pid}}/fd/0"))
attempt("parent", lambda: os.kill(os.getppid(), 9) if os.getppid() > 1 else None)
"""
        (text,) = talk(level, code)
    finally:
        signal.signal(signal.SIGURG, before)
    assert not heard
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) == nice
    assert limits == [resource.getrlimit(which) for which in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)]
    assert "trace ->" not in text


def test_limits_and_rights_cannot_be_raised(level: Any) -> None:
    code = f"""{TRY}
import resource, os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result != 0:
        raise OSError
attempt("memory", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
attempt("files", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)))
attempt("user", lambda: os.setuid(12345))
attempt("name space", lambda: check(libc.unshare(0x10000000)))
attempt("mount", lambda: check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0)))
attempt("chroot", lambda: os.chroot("."))
attempt("memfd", lambda: os.memfd_create("x"))
attempt("device", lambda: os.mknod("disk", 0o60600, os.makedev(8, 0)))
attempt("clock", lambda: check(libc.sethostname(b"x", 1)))
"""
    (text,) = talk(level, code)
    assert " -> " not in text


ENDLESS = [
    "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "import os\nwhile True:\n    try:\n        os.fork() or os.setsid()\n    except OSError:\n        pass",
    "while True: pass",
    "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(90)",
    "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
]


def test_what_never_ends_is_ended(level: Any) -> None:
    for text in together(level, ENDLESS, timeout_s=0.4, processes=6):
        assert "All variables are lost" in text or (level == "monty" and "Error" in text)


GREEDY = [
    "kept = bytearray(2 << 30)",
    "kept = [0] * (1 << 28)",
    "kept = []\nwhile True: kept.append(bytes(1 << 20))",
    "import mmap\nkept = mmap.mmap(-1, 2 << 30)",
    "import os\nfor _ in range(6):\n    if not os.fork():\n        kept = b'x' * (200 << 20)\n"
    "        while True: pass\nos.wait()",
]


def test_memory_is_limited(level: Any) -> None:
    *alone, many = together(level, GREEDY, memory_mb=256)
    assert all("MemoryError" in text or "OSError" in text or level == "monty" for text in alone)
    assert all("Error" in text for text in alone)
    assert "it used more than 256 MiB of memory" in many or level == "monty"


def test_processor_time_is_limited(level: Any) -> None:
    if level == "monty":
        pytest.skip("monty: the processor time of its worker is limited by the time of a call")
    (text,) = talk(level, "while True: pass", cpu_s=1)
    assert "used more than 1 s of processor time" in text


MUCH = [
    "chunk = 'x' * (1 << 20)\nfor _ in range(1024): print(chunk)",
    "import os\nwhile True: os.write(2, b'y' * 65536)",
    "import subprocess\nsubprocess.run(['yes'])",
]


def test_much_output_is_cut_while_it_is_read(level: Any) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in talk(level, *MUCH, output_chars=1000):
        assert len(text) < 1300
        assert "left out here" in text or level == "monty"
        assert "it printed more than 16 MiB" in text or level == "monty"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


STORING = [
    "big = open('big', 'wb')\nfor _ in range(100): big.write(b'x' * (1 << 20))",
    "for n in range(20):\n    with open(str(n), 'wb') as file: file.write(b'x' * (1 << 20))\nwhile True: pass",
    # In no folder any more.
    "import os\nkept = []\nfor n in range(20):\n    kept.append(open(str(n), 'wb', 0))\n    os.unlink(str(n))\n"
    "    kept[-1].write(b'x' * (1 << 20))\nwhile True: pass",
    # Deeper than a path may be long.
    "import os\nfor _ in range(21):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nfor n in range(20):\n"
    "    with open(str(n), 'wb') as file: file.write(b'x' * (1 << 20))\nwhile True: pass",
    # Empty, but each takes memory of the kernel.
    "import os\nfor n in range(1 << 40): os.close(os.open(str(n), os.O_CREAT | os.O_WRONLY))",
]


def test_files_are_limited(level: Any) -> None:
    for text in together(level, STORING, files_mb=8):
        assert "Error" in text or "MiB of files" in text


@pytest.mark.skipif(not LINUX, reason="needs a subreaper")
def test_dead_processes_count(level: Any) -> None:
    code = "import os\nwhile True:\n    if not os.fork(): os._exit(0)"
    (text,) = talk(level, code)
    assert "Error" in text or "it had more than 16 processes" in text


def test_a_session_takes_no_processes_from_another(level: Any) -> None:
    async def both() -> str:
        tool = PythonTool(level=level, processes=4)
        async with tool.session(TASK) as one, tool.session(TASK) as other:
            await one.call({"code": "import subprocess\nfor _ in range(4): subprocess.Popen(['sleep', '9'])"})
            return await other.call({"code": "import subprocess\nsubprocess.run(['true']).returncode"})

    assert asyncio.run(both()) == "0\n" or level == "monty"


ORPHAN = """
import os, signal, subprocess, sys
if not os.fork():
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not os.fork():
        subprocess.Popen(["sleep", "300"], start_new_session=True)
        while True: signal.pause()
    os._exit(0)
os.wait()
print("born")
"""


def test_no_process_outlives_its_session(level: Any) -> None:
    (text,) = talk(level, ORPHAN)
    assert "born" in text or level == "monty"


@pytest.mark.skipif(not LINUX, reason="needs a subreaper")
def test_even_without_a_sandbox_no_process_outlives_its_session() -> None:
    assert talk("none", ORPHAN) == ["born\n"]


def test_deep_and_locked_folders_are_removed(level: Any) -> None:
    code = """
import os
os.makedirs("locked/inner")
os.rmdir("locked/inner")
for _ in range(1100):  # deeper than the stack of Python
    os.mkdir("d")
    os.chdir("d")
"""
    talk(level, code)


LOSING = [
    "import os\nos._exit(0)",
    "import os\nos.closerange(0, 256)",
    "import os\nos.closerange(0, 256)\nwhile True: pass",
    "import os\nfor fd in range(256):\n    try: os.write(fd, b'garbage\\n' * 100)\n    except OSError: pass",
    "import os\nfor fd in range(256):\n    try: os.write(fd, b'ready\\n')\n    except OSError: pass\nwhile True: pass",
    "import os\nfor fd in range(256):\n    try: os.read(fd, 1)\n    except OSError: pass",
    "import os\nfor fd in range(3, 256):\n    try: os.dup2(1, fd)\n    except OSError: pass",
    "import sys\nsys.stdout = sys.stderr = None",
    "import sys\nsys.stdout.close(); sys.stderr.close()",
    "import os\nos.fork()",
    "import os\nif not os.fork():\n    raise RuntimeError",
    "import threading, os\nthreading.Thread(target=lambda: [os.write(fd, b'late\\n') for fd in range(3, 9)]).start()",
    "raise SystemExit(7)",
    "raise KeyboardInterrupt",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "import os, signal\nos.killpg(0, signal.SIGSTOP)",
    "import ctypes\nctypes.string_at(0)",
    "class E(Exception):\n    def __str__(self): raise self\nraise E",
    "class V:\n    def __repr__(self): raise SystemExit\nV()",
    'print(\'{"ended": ""}\\n{"token": 1}\')',
    "print('\\ud800\\x00\\x1b[2J')",
    "\x00",
    "\ud800",
    "x = = 1",
    "import builtins\nfor name in dir(builtins):\n    setattr(builtins, name, None)",  # last: none is left for others
]


def test_code_can_lose_its_own_session_and_nothing_else(level: Any) -> None:
    """Side by side, so that one that waits for its end does not hold up the others."""
    together(level, LOSING, timeout_s=0.7)


DRIVER = """
import asyncio, sys
from tokenprior.task import Task
from tokenprior.tools.python import PythonTool
async def main():
    async with PythonTool(level=sys.argv[1], timeout_s=60.0).session(Task(id="t", question="q")) as python:
        print(await python.call({"code": sys.argv[2]}), flush=True)
        await python.call({"code": "while True: pass"})
asyncio.run(main())
"""


@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_nothing_outlives_our_own_process_when_it_is_killed(level: Any) -> None:
    code = ORPHAN if level != "monty" else "print('born')"
    with subprocess.Popen([sys.executable, "-c", DRIVER, level, code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "born\n"
        driver.kill()
    deadline = time.monotonic() + 20
    while children() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_cancelled_call_ends_everything(level: Any) -> None:
    code = (ORPHAN if level != "monty" else "") + "\nwhile True: pass"

    async def session() -> None:
        async with PythonTool(level=level).session(TASK) as python:
            await python.call({"code": "1"})
            call = asyncio.create_task(python.call({"code": code}))
            await asyncio.sleep(0.3)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await python.call({"code": "1 + 1"})).strip() == "2"

    asyncio.run(session())

"""The command that serves the pages: its address, its end, and what it says where it cannot."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from story import error
from tokenprior.store import open_store

# Ctrl-C is ignored in whatever a shell put into the background, and that is passed on.
HEARS = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
RUN = HEARS + "runpy.run_module('tokenprior', run_name='__main__', alter_sys=True)"


def test_it_prints_an_address_that_signs_in_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        store.open_run("words-1", name="words", kind="learn", config={}).close("done")
    command = [sys.executable, "-c", RUN, "ui", "--port", "0", "--store", "s.db"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            entry = server.stdout.readline().strip()
            assert entry.startswith("http://127.0.0.1:")
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with opener.open(entry, timeout=30) as answer:
                assert "token" not in answer.url
                assert b"words-1" in answer.read()
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(entry.partition("?")[0], timeout=30)
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == 0
    assert said == ""


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert "no such store" in error("ui", "--store", tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    open_store(tmp_path / "s.db").close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be had" in error("ui", "--store", tmp_path / "s.db", "--port", port)

"""`claim`; `exclusive` is tested with what uses it, in test_download.py."""

import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mocodet.common import locks
from mocodet.common.locks import CLAIM, claim


def hold(folder: str, with_child: bool, to_test: Connection) -> None:
    """Hold ``folder`` until told to end, and report it; with a child that outlives a killed parent."""
    with claim(folder, work="paints"):
        child = os.fork() if with_child else None
        if child == 0:
            to_test.send(os.getpid())  # it has left the claim by now
            signal.pause()
        if child is None:
            to_test.send(None)
        to_test.recv()


@contextmanager
def holder(folder: Path, *, with_child: bool = False) -> Iterator[tuple[BaseProcess, Connection]]:
    """Start a process that holds ``folder``."""
    spawn = multiprocessing.get_context("spawn")
    to_process, to_test = spawn.Pipe()
    process = spawn.Process(target=hold, args=(str(folder), with_child, to_test))
    process.start()
    child = to_process.recv()
    try:
        yield process, to_process
    finally:
        process.kill()
        process.join()
        if child is not None:
            os.kill(child, signal.SIGKILL)  # fails the test if the child has not outlived its parent


def test_claim__refuses_at_once_and_says_who(tmp_path):
    folder = tmp_path / "new" / "run"
    with holder(folder) as (process, to_process):
        who = rf"pid {process.pid} on {re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        with (
            pytest.raises(BlockingIOError, match=rf"^another process \({who}\) paints in .*run; wait .*, or go home$"),
            claim(folder, instead="go home"),
        ):
            pass
        assert folder.joinpath(CLAIM).exists(), "the refused one leaves the holder's file"
        to_process.send("end")
        process.join()
        assert not (tmp_path / "new").exists(), "nothing was put in what the claim made"
    with claim(folder):
        pass


@pytest.mark.parametrize("with_child", [False, True])
def test_claim__of_a_killed_process_is_taken_over(tmp_path, with_child):
    with holder(tmp_path, with_child=with_child) as (process, _):
        process.kill()
        process.join()
        assert f'"pid": {process.pid},' in tmp_path.joinpath(CLAIM).read_text()
        with claim(tmp_path):
            assert f'"pid": {os.getpid()},' in tmp_path.joinpath(CLAIM).read_text()


def test_claim__a_child_neither_holds_nor_ends_it(tmp_path):
    with claim(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(len(locks._claims))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with pytest.raises(BlockingIOError, match=f"pid {os.getpid()} "), claim(tmp_path):
            pass


def test_claim__is_of_the_file_that_others_find(tmp_path, monkeypatch):
    """Its holder removes the file between our opening and our locking it."""
    flock, path = locks.fcntl.flock, tmp_path / CLAIM
    monkeypatch.setattr(locks.fcntl, "flock", lambda *how: (path.unlink(), flock(*how)) and monkeypatch.undo())
    with claim(tmp_path):
        assert path.read_text()
        with pytest.raises(BlockingIOError), claim(tmp_path):
            pass


def test_claim__where_the_disk_has_no_locks(tmp_path, monkeypatch, caplog):
    def unknown(*how: object) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unknown)
    with claim(tmp_path):
        assert "cannot be locked on this disk" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_claim__an_unreadable_note_is_no_error(tmp_path):
    with claim(tmp_path):
        Path(tmp_path, CLAIM).write_text('{"pid": 1')
        with pytest.raises(BlockingIOError, match=r"^another process works in "), claim(tmp_path):
            pass

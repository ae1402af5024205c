import os
import signal
import sys
import time
from pathlib import Path

import pytest

from mocodet.common import locks
from mocodet.common.study.process import Tether, TrialProcess, undisturbed


@pytest.fixture
def tether():
    tether = Tether()
    yield tether
    tether.close()


def run(script, folder, tether):
    return TrialProcess([sys.executable, "-c", script], folder, os.environ, tether)


def reason(script, folder, tether):
    process = run(script, folder, tether)
    process.end(grace=60)
    return process.reason()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import sys; sys.exit('error: no weights x')", "exit status 1: no weights x"),
        ("print('error: early'); {}['a']", "exit status 1: KeyError: 'a'"),
        ("print('error: a\\nand more\\n', flush=True); exit(4)", "exit status 4: a"),
        ("print('an error: no'); exit(3)", "exit status 3; see study.log in the trial's folder"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "ended by SIGKILL (out of memory, unless someone killed it); see study.log in the trial's folder",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
            "ended by SIGTERM; see study.log in the trial's folder",
        ),
        (
            "class Odd(Exception): pass\nclass OddError(Odd): pass\nraise OddError('x')",
            "exit status 1: OddError: x",
        ),
    ],
)
def test_reason(script, expected, tmp_path, tether):
    assert reason(script, tmp_path, tether) == expected


def test_reason__is_not_that_of_an_earlier_start(tmp_path, tether):
    reason("import sys; sys.exit('error: first')", tmp_path, tether)
    assert reason("exit(3)", tmp_path, tether) == "exit status 3; see study.log in the trial's folder"
    assert "error: first" in (tmp_path / "study.log").read_text()


def test_trial__its_children_end_with_it(tmp_path, tether):
    process = run("import os, time\nif os.fork() == 0:\n    time.sleep(60)\n", tmp_path, tether)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="is still running; stop it"), undisturbed(tmp_path, patience=0):
        pass
    process.end(grace=60)
    with undisturbed(tmp_path, patience=5):  # which the child would hold
        assert time.monotonic() - began < 30


def test_trial__that_does_not_want_to_end_is_made_to(tmp_path, tether):
    ready = tmp_path / "ready"
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += f"open({str(ready)!r}, 'w'); time.sleep(60)"
    process = run(script, tmp_path, tether)
    while not ready.exists():
        time.sleep(0.02)
    process.ask_to_end()
    process.end(grace=0.1)
    assert process.poll() == -signal.SIGKILL


def test_tether__ends_the_group_of_its_process(tmp_path):
    """The other end is closed, as the kernel closes it for a process that was killed."""
    tether = Tether()
    script = "import os, time\nfrom mocodet.common import tether\ntether.install()\n"
    script += "assert 'MOCODET_TETHER' not in os.environ\nos.fork()\n"
    script += f"open({str(tmp_path / 'ready')!r}, 'a').write('x')\ntime.sleep(60)"
    process = run(script, tmp_path, tether)
    ready = Path(tmp_path, "ready")
    while not ready.exists() or len(ready.read_text()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.close(tether._writing)
    deadline = time.monotonic() + 30
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() == -signal.SIGKILL
    with undisturbed(tmp_path, patience=5):
        pass
    os.close(tether.reading)


def test_lock__a_disk_without_locks_is_used_all_the_same(tmp_path, tether, monkeypatch):
    def no_locks(*arguments):
        raise OSError(locks.NO_LOCKS[0], "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    process = run("", tmp_path, tether)
    process.end(grace=60)
    assert process.poll() == 0

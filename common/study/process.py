"""The process of a trial: it ends with its study, and writes its output to its folder."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mocodet.common.locks import flock_now
from mocodet.common.tether import VARIABLE as TETHER_VARIABLE

LOG_FILE = "study.log"
LOCK_FILE = "trial.lock"
GRACE = 30.0  # seconds between asking a trial to end, which it does after its step, and killing it
PATIENCE = 60.0  # seconds for the trial of a killed study to end
TAIL = 65536  # bytes at the end of a log to search for its last error

ERROR = re.compile(r"error: .*|(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?:: .*)?")


class Tether:
    """The pipe by which trials notice that this process has ended; only this process has its writing end."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def close(self) -> None:
        """End all processes tied to it."""
        os.close(self._writing)
        os.close(self.reading)


class TrialProcess:
    """A running trial, in its own process group.

    Its output is appended to ``study.log`` in its folder. It holds the folder's lock as long as it, or a process that
    it started, lives, even if this process ends.

    Args:
        command: the command to run.
        folder: folder of the trial.
        environment: its environment.
        tether: ends it with this process, if the command installs `mocodet.common.tether`.

    Raises:
        TimeoutError: a process of an earlier study still holds the folder.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], tether: Tether):
        self._folder = folder
        self.began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        with (folder / LOG_FILE).open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command,
                env={**environment, TETHER_VARIABLE: str(tether.reading)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(tether.reading, self._lock),
            )

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.began

    def poll(self) -> int | None:
        """Return its exit status, once no process of it is left; None while it runs."""
        if self._process.returncode is None and os.waitid(
            os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            self._signal(signal.SIGKILL)  # its children; its id stays its own until it is waited for
            self._process.wait()
            os.close(self._lock)
        return self._process.returncode

    def ask_to_end(self) -> None:
        """Ask it and its children to end; `end` enforces it."""
        self._signal(signal.SIGTERM)

    def end(self, grace: float = GRACE) -> None:
        """Wait until it has ended; after ``grace`` seconds, kill it."""
        deadline = time.monotonic() + grace
        while self.poll() is None:
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.02)

    def reason(self) -> str:
        """Say why it failed: its exit status, and the last error in its output."""
        status = self._process.returncode
        ended = f"exit status {status}"
        if status < 0:
            name = signal.Signals(-status).name
            ended = f"ended by {name}" + (" (unless someone killed it, memory ran out)" if name == "SIGKILL" else "")
        with (self._folder / LOG_FILE).open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        error = next((line for line in reversed(lines) if ERROR.fullmatch(line)), None)
        return f"{ended}: {error.removeprefix('error: ')}" if error else f"{ended}; see {LOG_FILE} in its folder"

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def undisturbed(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a trial's folder while the block runs; wait for a process of a killed study to end.

    Raises:
        TimeoutError: that process does not end.
    """
    if not (folder / LOCK_FILE).exists():  # no study has started a trial here
        yield
        return
    lock = _lock(folder, patience)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path, patience: float = PATIENCE) -> int:
    """Open and lock the folder's lock file. The lock lives as long as any process has the open file."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + patience
    while True:
        try:
            flock_now(descriptor)  # the study and the training warn about a disk without locks
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise TimeoutError(
                    f"{folder}: the trial that an earlier study started here still runs; end it, then run this again"
                ) from None
            time.sleep(0.05)
        except OSError:
            os.close(descriptor)
            raise

"""The process of a trial, which ends together with its study and writes its output to the trial's folder."""

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
GRACE = 30.0  # seconds between asking a trial to stop, which it does after the current step, and killing it
PATIENCE = 60.0  # seconds to wait until the trial of a killed study has ended
TAIL = 65536  # bytes at the end of a log to search for its last error

ERROR = re.compile(r"error: .*|(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?:: .*)?")


class Tether:
    """A pipe through which trials detect that this process has ended. Only this process has the write end open."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def close(self) -> None:
        """End all processes that use this pipe."""
        os.close(self._writing)
        os.close(self.reading)


class TrialProcess:
    """A running trial, in its own process group.

    The output of the trial is appended to ``study.log`` in its folder. The folder stays locked while the trial or any
    of its child processes is running, even if this process ends.

    Args:
        command: command to run.
        folder: folder of the trial.
        environment: environment variables of the trial.
        tether: ends the trial together with this process, if the command installs `mocodet.common.tether`.

    Raises:
        TimeoutError: a process of an earlier study still has the folder locked.
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
        """Seconds since the start of the trial."""
        return time.monotonic() - self.began

    def poll(self) -> int | None:
        """Return the exit status once the trial and its children have ended. Until then, return None."""
        if self._process.returncode is None and os.waitid(
            os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            self._signal(signal.SIGKILL)  # kill its children; its id is not reused before wait()
            self._process.wait()
            os.close(self._lock)
        return self._process.returncode

    def ask_to_end(self) -> None:
        """Ask the trial and its child processes to end. `end` enforces the request."""
        self._signal(signal.SIGTERM)

    def end(self, grace: float = GRACE) -> None:
        """Wait until the trial has ended, and kill it after ``grace`` seconds."""
        deadline = time.monotonic() + grace
        while self.poll() is None:
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.02)

    def reason(self) -> str:
        """Return why the trial failed: its exit status, and the last error in its output."""
        status = self._process.returncode
        ended = f"exit status {status}"
        if status < 0:
            name = signal.Signals(-status).name
            ended = f"ended by {name}" + (" (out of memory, unless someone killed it)" if name == "SIGKILL" else "")
        with (self._folder / LOG_FILE).open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        error = next((line for line in reversed(lines) if ERROR.fullmatch(line)), None)
        return (
            f"{ended}: {error.removeprefix('error: ')}" if error else f"{ended}; see {LOG_FILE} in the trial's folder"
        )

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def undisturbed(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Lock a trial's folder while the block runs. If a process of a killed study is still running, wait for its end.

    Raises:
        TimeoutError: that process does not end in time.
    """
    if not (folder / LOCK_FILE).exists():  # no study has started a trial in this folder
        yield
        return
    lock = _lock(folder, patience)
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path, patience: float = PATIENCE) -> int:
    """Open and lock the folder's lock file. The lock is released when no process has the file open."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + patience
    while True:
        try:
            flock_now(descriptor)  # the study and the training warn if the disk does not support locks
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise TimeoutError(
                    f"{folder}: the trial that an earlier study started in this folder is still running; stop it, then"
                    " run the command again"
                ) from None
            time.sleep(0.05)
        except OSError:
            os.close(descriptor)
            raise

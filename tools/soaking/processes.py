"""Starts a training run as a process, and measures the resources that it uses."""

import math
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mocodet.common.checkpoint import name_of_last
from mocodet.common.progress import duration
from mocodet.common.study.process import Tether
from mocodet.common.tether import VARIABLE as TETHER_VARIABLE

from .trainings import Training

PATIENCE = 2400.0  # seconds within which a command must end
FAREWELL = 20.0  # seconds within which its processes must then end
SAMPLES = 8  # the number of samples required to compare early with late resource usage
MORE_FILES, MORE_MEMORY = 4, 1.15  # limits of the growth from early to late: a number of files, and a factor


class Process(NamedTuple):
    """A running process of a session, as listed in /proc."""

    pid: int
    parent: int
    started: int
    command: str


def processes_of(session: int) -> list[Process]:
    """Return the processes of a session in the order in which they started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, of, *others = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(of) == session and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(folder.name), int(parent), int(others[15]), command))
    return sorted(found, key=lambda process: process.started)


@dataclass
class Sample:
    """The total resource usage of the training processes at a moment."""

    memory: int
    files: int
    threads: int


def sample(pids: Iterable[int]) -> Sample | None:
    """Measure the resource usage of processes, and return None if one of them has ended."""
    whole = Sample(0, 0, 0)
    try:
        for pid in pids:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
            )
            whole.memory += int(status["VmRSS"].split()[0]) << 10
            whole.threads += int(status["Threads"])
            whole.files += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (faster)
    except (OSError, KeyError):
        return None
    return whole


class Run:
    """A training run that has been started, with its command as the leader of a separate session.

    Args:
        training: describes the training run.
        command: the complete command.
        output: the OUTPUT_DIR of the run.
        terminal: the file for the output of the command, which arrives through a pipe and is therefore not affected by
            a limit on file sizes.
        environment: the environment of the command.
        tether: ends the command together with this process.
    """

    def __init__(
        self,
        training: Training,
        command: Sequence[str],
        output: Path,
        terminal: Path,
        environment: Mapping[str, str],
        tether: Tether,
    ):
        self.training, self.output, self.terminal = training, output, terminal
        self.first = self.newest()
        self.seen: list[str] = []  # checkpoints that this run has written
        self.samples: list[Sample] = []  # since the first checkpoint
        self.pids: set[int] = set()  # ids of all its processes
        self.status: int | None = None
        self.peak = 0  # bytes
        self.began = self._sampled = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env={**environment, TETHER_VARIABLE: str(tether.reading)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(tether.reading,),
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self.terminal.open("wb") as printed:
            while text := os.read(self._process.stdout.fileno(), 1 << 16):
                printed.write(text)
                printed.flush()

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.began

    def newest(self) -> str:
        """Return the name of the last checkpoint in the folder of the run, or an empty string."""
        return name_of_last(self.output)

    def ranks(self) -> list[int]:
        """Return the ids of the training processes in the order of their ranks."""
        if self.training.processes == 1:
            return [self.pid]
        return [one.pid for one in self.children() if "spawn_main" in one.command]

    def loaders(self) -> list[int]:
        """Return the ids of the loader processes, which are forked."""
        mine = [one.command for one in processes_of(self.pid) if one.pid == self.pid]
        return [one.pid for one in self.children() if one.command in mine]

    def children(self) -> list[Process]:
        """Return the processes that the run has started."""
        return [one for one in processes_of(self.pid) if one.parent == self.pid]

    def running(self) -> bool:
        """Update the recorded state of the run, and return whether it is still running."""
        if self.status is not None:
            return False
        newest = self.newest()
        if newest not in ("", self.first, *self.seen[-1:]):
            self.seen.append(newest)
        if time.monotonic() - self._sampled > 1:
            self._look()
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.status = self._process.returncode = os.waitstatus_to_exitcode(status)
            self.peak = usage.ru_maxrss << 10
        return not pid

    def _look(self) -> None:
        self._sampled = time.monotonic()
        self.pids |= {one.pid for one in processes_of(self.pid)}
        ranks = self.ranks()
        if self.seen and len(ranks) == self.training.processes and (measured := sample(ranks)):
            self.samples.append(measured)

    def wait(self, until: Callable[[], object] = lambda: False, seconds: float = math.inf, pause: float = 0.05) -> bool:
        """Wait until the run has ended, a condition holds or a time has passed; return whether the run is active.

        Raises:
            TimeoutError: the run did not end within `PATIENCE` seconds.
        """
        deadline = time.monotonic() + seconds
        while running := self.running():
            if until() or time.monotonic() > deadline:
                break
            if self.seconds > PATIENCE:
                raise TimeoutError(f"the run did not end within {duration(PATIENCE)}")
            time.sleep(pause)
        return running

    def leave(self) -> list[Process]:
        """Wait for the processes of a run that has ended; kill those that do not end, and return them."""
        deadline = time.monotonic() + FAREWELL
        while (left := processes_of(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.end()
        self._reader.join(FAREWELL)
        return left

    def end(self) -> None:
        """Kill all processes of the run, and wait until they have ended."""
        while (there := processes_of(self.pid)) or self.running():
            for process in there:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)

    def printed(self) -> str:
        """Return the output of the command."""
        return self.terminal.read_text(errors="replace")


def growth(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return the medians of the first and the last third of the samples, or an empty dict for too few samples."""
    third = len(samples) // 3
    if len(samples) < SAMPLES:
        return {}
    return {
        name: [statistics.median(getattr(one, name) for one in part) for part in (samples[:third], samples[-third:])]
        for name in ("memory", "files", "threads")
    }


def grown(trend: Mapping[str, Sequence[float]]) -> list[str]:
    """List the resources whose usage has grown, given the result of `growth`."""
    found = []
    for name, (early, late) in trend.items():
        if late > (early * MORE_MEMORY if name == "memory" else early + MORE_FILES):
            found.append(f"{name}: {early:.0f} early, {late:.0f} late")
    return found

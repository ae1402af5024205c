"""The progress of a study: the running trials, the number of trials that have ended, and the remaining time."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import IO, NamedTuple

import yaml

from mocodet.common.progress import duration

from .aggregate import read_max_iter
from .state import Outcome
from .trials import Trial

BETWEEN_LINES = 60.0  # seconds, if the output is not a terminal
BETWEEN_DRAWINGS = 1.0  # seconds, on a terminal
TAIL = 65536  # bytes at the end of metrics.json that are searched for the last line


class Progress(NamedTuple):
    """The progress of a training run: completed iterations, total iterations, and remaining seconds, if known."""

    iteration: int
    total: int
    left: float | None


class Running(NamedTuple):
    """A running trial: its running time in seconds, its progress if logged, and whether it started from scratch."""

    trial: Trial
    seconds: float
    progress: Progress | None
    whole: bool = True


def read_progress(folder: Path, since: float) -> Progress | None:
    """Read the progress of a training run from its log. The result is None if nothing was logged since the start.

    Args:
        folder: ``OUTPUT_DIR`` of the run.
        since: start time of the run, in seconds since the epoch.
    """
    log, config = folder / "metrics.json", folder / "config.yaml"
    try:
        logged = log.stat().st_mtime
        if logged < since:
            return None
        record = _last_record(log)
        total = _iterations(config, config.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # a file is still being written
        return None
    if record is None:
        return None
    left = record.get("eta_seconds")
    done = min(record["iteration"] + 1, total)  # hooks after the last step log at the next iteration
    return Progress(done, total, None if left is None else max(0.0, left - (time.time() - logged)))


@lru_cache(maxsize=64)
def _iterations(config: Path, changed: int) -> int:
    """Read the length of a schedule. ``changed`` distinguishes versions of the file in the cache."""
    return read_max_iter(config)


def _last_record(log: Path) -> dict | None:
    """Return the last complete line of a ``metrics.json`` that contains an iteration."""
    with log.open("rb") as handle:
        handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL))
        lines = handle.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "iteration" in record:
            return record
    return None


def time_left(
    waiting: Sequence[Trial], running: Sequence[Running], outcomes: Mapping[Trial, Outcome], slots: int
) -> float | None:
    """Estimate the remaining seconds of a study. The result is None until the duration of a trial is known.

    The expected duration of a trial is the mean over the fully trained trials with the same detector and fraction. If
    there are no such trials, it is the mean over all fully trained trials.
    """
    known = {trial: end.seconds for trial, end in outcomes.items() if end.status == "finished" and end.whole}
    for trial, seconds, progress, whole in running:
        if whole and progress and progress.left is not None:
            known[trial] = seconds + progress.left
    took = {trial: seconds for trial, seconds in known.items() if seconds is not None}

    def expected(trial: Trial) -> float | None:
        like = [took[other] for other in took if (other.detector, other.fraction) == (trial.detector, trial.fraction)]
        return fmean(like or took.values()) if took else None

    def rest(each: Running) -> float | None:
        if each.progress and each.progress.left is not None:
            return each.progress.left
        whole = expected(each.trial)
        return None if whole is None else max(0.0, whole - each.seconds)

    still = [rest(each) for each in running]
    work = [*still, *map(expected, waiting)]
    if None in work:
        return None
    return max([sum(filter(None, work)) / slots, *filter(None, still)])


class View:
    """Displays a running study, either as a block that is redrawn on a terminal or as periodic lines elsewhere.

    Args:
        name: name of the study.
        total: number of trials in the study.
        slots: number of trials that run in parallel.
        stream: output stream.
        clock: function that returns the time in seconds.
    """

    def __init__(self, name: str, total: int, slots: int, stream: IO[str], clock: Callable[[], float] = time.monotonic):
        self._name, self._total, self._slots, self._stream, self._clock = name, total, slots, stream, clock
        self._terminal = stream.isatty()
        self._drawn = 0  # lines of the block on the terminal
        self._next = clock() + (0 if self._terminal else BETWEEN_LINES)

    def say(self, line: str) -> None:
        """Print a line that is not erased when the block is redrawn."""
        self._erase()
        print(line, file=self._stream, flush=True)
        if self._terminal:
            self._next = self._clock()  # redraw the block immediately

    def due(self) -> bool:
        """Return whether the progress is due to be shown."""
        return self._clock() >= self._next

    def show(self, waiting: Sequence[Trial], running: Sequence[Running], outcomes: Mapping[Trial, Outcome]) -> None:
        """Show the progress of the study."""
        failed = sum(outcome.status == "failed" for outcome in outcomes.values())
        counts = [f"{len(outcomes) - failed} of {self._total} finished"]
        counts += [f"{failed} failed"] if failed else []
        counts += [f"{len(running)} running", f"{len(waiting)} waiting"]
        left = time_left(waiting, running, outcomes, self._slots)
        counts += [f"about {duration(left)} left"] if left is not None else []
        head, trials = f"{self._name}: {', '.join(counts)}", [_line(each) for each in running]
        self._erase()
        if self._terminal:
            columns, rows = shutil.get_terminal_size()
            lines = [head, *(f"  {line}" for line in trials)][: max(1, rows - 1)]
            self._stream.write("".join(f"{line[: columns - 1]}\n" for line in lines))
            self._drawn = len(lines)
        else:
            self._stream.write("; ".join([head, *trials]) + "\n")
        self._stream.flush()
        self._next = self._clock() + (BETWEEN_DRAWINGS if self._terminal else BETWEEN_LINES)

    def close(self) -> None:
        """Erase the block."""
        self._erase()
        self._stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def _line(running: Running) -> str:
    if running.progress is None:
        return f"{running.trial}: started {duration(running.seconds)} ago"
    iteration, total, left = running.progress
    return f"{running.trial}: iteration {iteration} of {total}" + (f", about {duration(left)} left" if left else "")

"""Alternating timing of implementations in one process, so that other load on the machine affects all equally."""

import gc
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

Seconds = dict[str, list[float]]  # by implementation, one value per round


class Clock(NamedTuple):
    """A clock for timing runs.

    Attributes:
        name: kind of time that the clock measures, ``"CPU"`` or ``"wall"``.
        now: function that returns the time in seconds.
    """

    name: str
    now: Callable[[], float]


class Spread(NamedTuple):
    """A median, and the quartiles below and above it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the median and quartiles of at least one value, interpolated as in NumPy."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)


def cpu_seconds() -> float:
    """Return the CPU time used by all threads of this process and by its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CPU, WALL = Clock("CPU", cpu_seconds), Clock("wall", time.perf_counter)


def clock_of(device: torch.device) -> Clock:
    """Return the function that reads the time for measurements on ``device``.

    On CUDA, the clock measures wall time after synchronising the device. On a CPU with one thread, it measures CPU
    time, which other programs barely affect. With multiple threads, it measures wall time, because waiting threads may
    spin.
    """
    if device.type == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return Clock("wall", synchronised)
    return CPU if torch.get_num_threads() == 1 else WALL


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    pairs: int,
    clock: Clock,
    *,
    warm_up: int = 1,
    before: Callable[[], object] = gc.collect,
) -> Seconds:
    """Run all implementations alternately, ``pairs`` times each, and return the duration of every run in seconds.

    Args:
        contestants: functions to run, by name.
        pairs: number of timed rounds. Every second round is in reverse order, so that a gradual slowdown of the machine
            favours no implementation.
        clock: clock for timing the runs.
        warm_up: number of untimed runs of each function before the first round, to allocate memory and select kernels.
        before: function that is called, untimed, before each timed run. By default, it collects the garbage of the
            previous run.
    """
    for run in contestants.values():
        for _ in range(warm_up):
            run()
    seconds: Seconds = {name: [] for name in contestants}
    for number in range(pairs):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            before()
            began = clock.now()
            contestants[name]()
            seconds[name].append(clock.now() - began)
    return seconds


def ratio(seconds: Seconds, reference: str, contestant: str) -> Spread:
    """Return the speed of ``contestant`` relative to ``reference``, as the median and quartiles over the rounds."""
    return Spread.of([slow / fast for slow, fast in zip(seconds[reference], seconds[contestant], strict=True)])

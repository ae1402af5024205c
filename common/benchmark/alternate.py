"""Time contestants in turn, in one process, so that disturbances of the machine affect all of them alike."""

import gc
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

Seconds = dict[str, list[float]]  # by contestant, one for each round


class Clock(NamedTuple):
    """A clock for timing runs.

    Attributes:
        name: kind of time, ``"CPU"`` or ``"wall"``.
        now: returns seconds.
    """

    name: str
    now: Callable[[], float]


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the median and quartiles of at least one value, interpolated as in numpy."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)


def cpu_seconds() -> float:
    """Return the CPU time of all threads of this process, and of its child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CPU, WALL = Clock("CPU", cpu_seconds), Clock("wall", time.perf_counter)


def clock_of(device: torch.device) -> Clock:
    """Return the clock for work on ``device``.

    On CUDA it measures wall time with an empty queue of the device. On a CPU it measures CPU time, which other programs
    hardly disturb, or wall time with several threads, since waiting threads may spin.
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
    """Run all contestants in turn, ``pairs`` times, and return the seconds that each run took.

    Args:
        contestants: functions to run, by name.
        pairs: timed rounds. Every other one is in reverse order, so that a machine that steadily slows down favours
            none.
        clock: times the runs.
        warm_up: runs of each before the first round, to allocate memory and to choose kernels.
        before: called before each timed run, untimed. By default it collects the garbage of the last contestant.
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
    """Return the speed of a contestant relative to ``reference``: the median over the rounds, with quartiles."""
    return Spread.of([slow / fast for slow, fast in zip(seconds[reference], seconds[contestant], strict=True)])

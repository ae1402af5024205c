"""Time contestants in turn, in one process, so that whatever disturbs the machine disturbs all of them."""

import gc
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

Seconds = dict[str, list[float]]  # by contestant, one for each round


class Clock(NamedTuple):
    """What times a run.

    Attributes:
        name: ``"CPU"`` or ``"wall"``: of which time.
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
        """Return that of one value or more; quartiles lie between values as numpy's do."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)


def cpu_seconds() -> float:
    """Return the CPU time of all threads of this process, and of the processes that it started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CPU, WALL = Clock("CPU", cpu_seconds), Clock("wall", time.perf_counter)


def clock_of(device: torch.device) -> Clock:
    """Return what times work on ``device``.

    On CUDA that is wall time with the queue of the device empty. On a CPU it is CPU time, which other programs disturb
    little; with several threads it is wall time, since threads that wait may spin.
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
        contestants: what to run, by name.
        pairs: rounds that are timed. Every other one goes backwards, so that a machine that slows down steadily
            favours none.
        clock: what times them.
        warm_up: runs of each before the first round: memory is taken, kernels are chosen.
        before: is called before each timed run, and not timed. By default it sweeps up what the last contestant left.
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
    """Return how many times as fast as ``reference`` a contestant is: the median over the rounds, with quartiles."""
    return Spread.of([slow / fast for slow, fast in zip(seconds[reference], seconds[contestant], strict=True)])

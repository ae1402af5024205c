"""``mocodet benchmark step --profile``: measures which operations take the most time in a step of the trainer."""

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mocodet.common.benchmark.alternate import Seconds, clock_of

WHOLE = "the whole step"
LONGEST_NAME = 60  # characters; names of CUDA kernels can have hundreds


def longest_operations(step: Callable[[], object], device: torch.device, steps: int, count: int = 10) -> Seconds:
    """Measure a step and its longest operations (on CUDA, its kernels).

    Args:
        step: the step to measure, which must have run before.
        device: device on which the time is measured.
        steps: number of steps to run without the profiler, and then again with it.
        count: number of operations to return.

    Returns:
        the seconds of each step under `WHOLE`, followed by the seconds of each operation in each profiled step, sorted
        by decreasing total. The time of an operation does not include the operations that it calls.
    """
    clock = clock_of(device)
    whole = []
    for _ in range(steps):
        began = clock.now()
        step()
        whole.append(clock.now() - began)
    profiled = [operations_of(step, device) for _ in range(steps)]
    names = set.intersection(*map(set, profiled))
    by_name = {name: [seconds[name] for seconds in profiled] for name in names}
    longest = sorted(names, key=lambda name: sum(by_name[name]), reverse=True)[:count]
    return {WHOLE: whole, **{name: by_name[name] for name in longest}}


def operations_of(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Run a step once and return each operation's seconds on ``device``, keyed by a shortened name."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        step()
        clock_of(device).now()  # synchronises with the device
    seconds: dict[str, float] = {}
    for event in profiled.key_averages():
        if device.type == "cpu":
            spent = event.self_cpu_time_total
        else:  # the events of CPU operators also include the time of their kernels
            spent = event.self_device_time_total if event.device_type == DeviceType.CUDA else 0
        name = shortened(event.key)
        seconds[name] = seconds.get(name, 0.0) + spent / 1e6
    return seconds


def shortened(name: str) -> str:
    """Return the beginning and the end of a long name, which distinguish kernels of the same template."""
    name = name.replace("|", "/")  # "|" would end a table cell
    if len(name) <= LONGEST_NAME:
        return name
    half = LONGEST_NAME // 2
    return f"{name[:half]}…{name[-half + 1 :]}"

"""The number of CPU cores that a process may use."""

import os


def threads_for_each(processes: int) -> int:
    """Return the number of threads per process, at least one, if ``processes`` processes share the available cores."""
    return max(1, available_cores() // processes)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

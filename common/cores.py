"""The CPU's cores, and how many of them a process may use."""

import os


def threads_for_each(processes: int) -> int:
    """Divide the cores that this process may use between so many others; at least one thread for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)

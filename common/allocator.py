"""glibc's allocator, told to keep the memory that a step frees for the next one."""

import ctypes
import os
from collections.abc import Sequence

# For each threshold: mallopt's parameter in <malloc.h>, the user's environment variable, and glibc's tunable.
SETTINGS = (
    (-3, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"),  # from this size on, memory is mapped and unmapped
    (-1, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold"),  # bytes that may stay unused at the end of the heap
)

# Above the activations of any layer. Older glibcs refuse more than half of a thread's heap.
THRESHOLDS = (1 << 30, 1 << 25)

# Above a decoded photograph.
SMALL_THRESHOLDS = (1 << 25,)


def keep_freed_memory() -> None:
    """Let this process, and those forked from it, keep freed memory instead of handing it back to the kernel.

    A training step frees as much as the next one takes, and the kernel clears and maps every page that it gets back.
    The function has no effect without glibc, and leaves alone what the user has set by glibc's own variables.
    """
    _set_thresholds(THRESHOLDS)


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` in a loader process: there are many of them, and none must keep a gigabyte."""
    _set_thresholds(SMALL_THRESHOLDS)


def _set_thresholds(thresholds: Sequence[int]) -> None:
    if not _has_glibc():
        return
    mallopt = ctypes.CDLL(None).mallopt
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for parameter, variable, tunable in SETTINGS:
        if variable not in os.environ and tunable not in tunables:
            any(mallopt(parameter, threshold) for threshold in thresholds)  # until one is accepted


def _has_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, OSError, ValueError):  # not a Unix, or a C library without the function
        return False

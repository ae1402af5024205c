"""Configures glibc's allocator to keep freed memory, so that the next training step can reuse it."""

import ctypes
import os
from collections.abc import Sequence

# For each threshold: the mallopt parameter from <malloc.h>, the environment variable, and the glibc tunable.
SETTINGS = (
    (-3, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"),  # allocations of at least this size are mapped
    (-1, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold"),  # free bytes that may remain at the end of the heap
)

# Larger than the activations of any layer. Older glibc versions reject more than half of a thread's heap.
THRESHOLDS = (1 << 30, 1 << 25)

# Larger than a decoded photograph.
SMALL_THRESHOLDS = (1 << 25,)


def keep_freed_memory() -> None:
    """Make this process and its forked children keep freed memory instead of returning it to the kernel.

    A training step frees about as much memory as the next one allocates, and the kernel would have to clear and map
    every returned page again. This function has no effect without glibc, and it does not override thresholds that the
    user has set with glibc's environment variables.
    """
    _set_thresholds(THRESHOLDS)


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` in a loader process, because each of many loaders could otherwise keep a gigabyte."""
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
    except (AttributeError, OSError, ValueError):  # not a Unix system, or a C library without this function
        return False

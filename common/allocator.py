"""glibc's allocator, told to keep the memory that a step frees for the next one."""

import ctypes
import os
from collections.abc import Sequence

# Of <malloc.h>: what mallopt sets, the variable by which the user can set it, and its name among glibc's tunables.
SETTINGS = (
    (-3, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"),  # from this size on, memory is mapped and unmapped
    (-1, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold"),  # so much may stay unused at the heap's end
)

# Above the activations of any layer. Older glibcs refuse more than half of a thread's heap.
THRESHOLDS = (1 << 30, 1 << 25)

# Above a decoded photograph.
SMALL_THRESHOLDS = (1 << 25,)


def keep_freed_memory() -> None:
    """Let this process, and those forked from it, keep freed memory instead of handing it back to the kernel.

    A training step frees as much as the next one takes: every page that goes back is cleared and mapped again. Nothing
    is done where the C library is not glibc, nor of what the user has set by glibc's own variables.
    """
    _set_thresholds(THRESHOLDS)


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` in a process that takes little: one of many loaders must not keep a gigabyte."""
    _set_thresholds(SMALL_THRESHOLDS)


def _set_thresholds(thresholds: Sequence[int]) -> None:
    if not _has_glibc():
        return
    mallopt = ctypes.CDLL(None).mallopt
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for parameter, variable, tunable in SETTINGS:
        if variable not in os.environ and tunable not in tunables:
            any(mallopt(parameter, threshold) for threshold in thresholds)  # the first that is taken


def _has_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, OSError, ValueError):  # not a Unix; a C library that does not know the name
        return False

"""Measures the free memory of a GPU, a machine or a container."""

import os
from pathlib import Path

import torch


def available_bytes(device: torch.device) -> int:
    """Return the number of free bytes on a GPU or, for the CPU, on the machine or in its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not Linux: total memory
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *cgroup_bytes()])  # in KiB


def cgroup_bytes(mount: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes that each memory limit leaves to this process, for its control group and all enclosing groups.

    A group's cache of inactive files counts as free. Versions 1 and 2 of the kernel's interface are supported.

    Args:
        mount: the mount point of the control groups.
        mine: the file that lists the control groups of this process.
    """
    left = []
    for line in mine.read_text().splitlines() if mine.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, names, cache = mount, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            root, cache = mount / "memory", "total_inactive_file"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container, the path may be that of the host; the mounted root is then the container's own group.
        own = Path(group.lstrip("/"))
        for folder in (root / part for part in (own, *own.parents)):
            try:
                limit, used = ((folder / name).read_text().strip() for name in names)
                stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
            except OSError:  # no such group here, or the root group, which has no limit
                continue
            if limit != "max":
                left.append(max(0, int(limit) - int(used) + int(stat.get(cache, 0))))
    return left

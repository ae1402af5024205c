"""What mallopt was told cannot be read back: the tests look at how it is called, and at what malloc then does."""

import ctypes
import os
import subprocess
import sys

import pytest

from mocodet.common import allocator

NEEDS_GLIBC = pytest.mark.skipif(not allocator._has_glibc(), reason="needs glibc")

# Prints how many bytes malloc has mapped, of 64 MiB that are in use: with the default, all of them.
MAPPED = """
import ctypes, sys
from mocodet.common.allocator import keep_freed_memory

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd f1 f2 uordblks f3 keep".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Mallinfo2, ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
if sys.argv[1] == "keep":
    keep_freed_memory()
before = libc.mallinfo2().hblkhd
assert libc.malloc(64 << 20)
print(libc.mallinfo2().hblkhd - before)
"""


@NEEDS_GLIBC
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize(
    ("how", "variables", "mapped"),
    [("default", {}, True), ("keep", {}, False), ("keep", {"MALLOC_MMAP_THRESHOLD_": "1048576"}, True)],
)
def test_keep_freed_memory__large_memory_is_not_mapped(how, variables, mapped):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, how], env=kept | variables, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) >= 64 << 20) == mapped


class FakeLibrary:
    """A C library that takes thresholds up to ``largest``, and notes them."""

    def __init__(self, largest: int) -> None:
        self.set: dict[int, int] = {}
        self.largest = largest

    def mallopt(self, parameter: int, value: int) -> int:
        if value > self.largest:
            return 0
        self.set[parameter] = value
        return 1


@pytest.mark.parametrize(
    ("variables", "largest", "expected"),
    [
        ({}, 1 << 40, {-3: 1 << 30, -1: 1 << 30}),
        ({}, 1 << 25, {-3: 1 << 25, -1: 1 << 25}),
        ({"MALLOC_TRIM_THRESHOLD_": "0"}, 1 << 40, {-3: 1 << 30}),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1:glibc.malloc.check=1"}, 1 << 40, {-1: 1 << 30}),
    ],
)
def test_keep_freed_memory__sets_what_the_user_has_not(monkeypatch, variables, largest, expected):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    library = FakeLibrary(largest)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    allocator.keep_freed_memory()
    assert library.set == expected


@NEEDS_GLIBC
def test_return_freed_memory__sets_less_than_was_kept(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    library = FakeLibrary(1 << 40)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    allocator.keep_freed_memory()
    kept = dict(library.set)
    allocator.return_freed_memory()
    assert library.set.keys() == kept.keys()
    assert all(library.set[parameter] < kept[parameter] for parameter in kept)


@pytest.mark.parametrize("answer", ["", None, ValueError("unrecognized configuration name"), OSError(22, "Invalid")])
def test_keep_freed_memory__does_nothing_without_glibc(monkeypatch, answer):
    def confstr(name: str) -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    monkeypatch.delattr(ctypes, "CDLL")  # would fail if it were asked for
    allocator.keep_freed_memory()

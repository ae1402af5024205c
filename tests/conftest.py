"""The order of the tests: long files come first, so that no process is left alone with them at the end."""

import signal

import pytest

from mocodet.common.allocator import keep_freed_memory

keep_freed_memory()  # as the commands do

# Background jobs of a shell, and their children, ignore Ctrl-C; the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Beginnings of the names of such files.
LONG = (
    "tests/rehearsal/test_run",
    "tests/pretrain/test_",
    "tests/common/test_launch",
    "tests/detection/training/",
    "tests/test_packaging",
    "tests/pretrain/costs/",
    "tests/detection/test_fcn_learns",
    "tests/detection/weights/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by the place of a test's file in `LONG`; the rest keep their order."""

    def place(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))

    items.sort(key=place)

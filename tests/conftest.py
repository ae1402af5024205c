"""The order of the tests, and what each of them restores."""

import logging
import signal
import sys
from collections.abc import Iterator

import pytest

from mocodet.common.allocator import keep_freed_memory

keep_freed_memory()  # as the commands do

# Background jobs of a shell, and their children, ignore Ctrl-C; the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Long files run first, so that no process is left alone with them at the end. The beginnings of their names:
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


def _loggers() -> dict[str, logging.Logger]:
    known = logging.Logger.manager.loggerDict
    return {name: logger for name, logger in known.items() if isinstance(logger, logging.Logger)}


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    """Undo a test's changes to loggers: commands set up handlers and stop propagation, and later tests use caplog."""
    before = {name: (logger.propagate, logger.level, [*logger.handlers]) for name, logger in _loggers().items()}
    yield
    for name, logger in _loggers().items():
        logger.propagate, level, logger.handlers = before.get(name, (True, logging.NOTSET, []))
        logger.setLevel(level)
    if module := sys.modules.get("detectron2.utils.logger"):
        module.setup_logger.cache_clear()  # or it would believe that its handlers are still there

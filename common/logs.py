"""Where a run logs: on the terminal of its main process, and in its folder once all checks have passed."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

NAMES = ("mocodet", "fvcore", "detectron2", "densepose")


class _Memory(logging.Handler):
    """Keeps log records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def log_to(folder: str | None) -> None:
    """Log on the terminal and, if a folder is given, in its ``log.txt``; this replaces earlier handlers.

    Records from before there was a folder are written to the folder of the next call.
    """
    setup_logger.cache_clear()  # and remove the handlers of an earlier run, which would log everything twice
    for name in NAMES:
        logger = logging.getLogger(name)
        earlier = [handler for handler in logger.handlers if isinstance(handler, _Memory)]
        logger.handlers.clear()
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
        if folder is None:
            logger.addHandler(_Memory())
            continue
        for record in (record for memory in earlier for record in memory.records):
            for file in _files_of(logger):
                file.handle(record)


def _files_of(logger: logging.Logger) -> list[logging.Handler]:
    return [handler for handler in logger.handlers if getattr(handler, "stream", sys.stdout) is not sys.stdout]


@contextmanager
def tracebacks_in_log_file() -> Iterator[None]:
    """Write the traceback of an error that ends the block to ``log.txt`` only, as detectron2's loop does.

    The caller prints the error on the terminal.
    """

    def has_none(record: logging.LogRecord) -> bool:
        return record.exc_info is None

    loop, ours = logging.getLogger("detectron2.engine.train_loop"), logging.getLogger("mocodet")
    loop.addFilter(has_none)
    try:
        yield
    except Exception:
        what = ("ended by an error:", (), sys.exc_info())
        record = ours.makeRecord(ours.name, logging.ERROR, __file__, 0, *what)
        for file in _files_of(ours):
            file.handle(record)
        raise
    finally:
        loop.removeFilter(has_none)

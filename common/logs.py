"""Logs a run to the terminal of its main process and, once all checks have passed, to a file in its folder."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

NAMES = ("mocodet", "fvcore", "detectron2", "densepose")


class _Memory(logging.Handler):
    """Stores log records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _LogFile:
    """A log file that omits the records that do not fit on a full disk, and reports this once on the terminal.

    Python's own handlers would print a traceback for each such record. The file is unbuffered, because flushing a
    buffer would fail again at exit.

    Args:
        stream: the file, opened for appending.
    """

    def __init__(self, stream: TextIO) -> None:
        self._name, self._descriptor = stream.name, stream.fileno()
        self._told = False

    def write(self, text: str) -> None:
        """Append ``text`` in UTF-8 if there is space on the disk."""
        try:
            os.write(self._descriptor, text.encode(errors="backslashreplace"))
        except OSError as error:
            if not self._told:
                print(f"{self._name} is incomplete from here on: {error.strerror}", file=sys.stderr, flush=True)
            self._told = True

    def flush(self) -> None:
        """Do nothing, because the file has no buffer."""


def log_to(folder: str | None) -> None:
    """Log to the terminal and, if a folder is given, to its ``log.txt``. Earlier handlers are replaced.

    Records that were logged before a folder was given are written to the folder of the next call.
    """
    setup_logger.cache_clear()  # handlers of an earlier run would log everything twice
    opened: dict[str, _LogFile] = {}
    for name in NAMES:
        logger = logging.getLogger(name)
        earlier = [handler for handler in logger.handlers if isinstance(handler, _Memory)]
        logger.handlers.clear()
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
        if folder is None:
            logger.addHandler(_Memory())
            continue
        for file in _files_of(logger):
            file.setStream(opened.setdefault(file.stream.name, _LogFile(file.stream)))
            for record in (record for memory in earlier for record in memory.records):
                file.handle(record)


def _files_of(logger: logging.Logger) -> list[logging.StreamHandler]:
    streams = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
    return [handler for handler in streams if handler.stream is not sys.stdout]


@contextmanager
def tracebacks_in_log_file() -> Iterator[None]:
    """Write the traceback of an error that ends the block to ``log.txt``, but not to the terminal.

    The caller prints the error on the terminal. The traceback of an error that ends a thread is also written to the
    file. For example, if the disk is full, TensorBoard's thread ends, and its writer raises the error again when it is
    next used.
    """

    def has_none(record: logging.LogRecord) -> bool:
        return record.exc_info is None

    loop, ours = logging.getLogger("detectron2.engine.train_loop"), logging.getLogger("mocodet")

    def log(what: str, error: BaseException | None) -> None:
        exc_info = (type(error), error, error.__traceback__) if error else None
        record = ours.makeRecord(ours.name, logging.ERROR, __file__, 0, what, (), exc_info)
        for file in _files_of(ours):
            file.handle(record)

    loop.addFilter(has_none)
    hook = threading.excepthook
    threading.excepthook = lambda ended: log("a thread ended with an error:", ended.exc_value)
    try:
        yield
    except Exception as error:
        log("the run ended with an error:", error)
        raise
    finally:
        threading.excepthook = hook
        loop.removeFilter(has_none)

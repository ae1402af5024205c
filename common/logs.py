"""Where a run logs: on the terminal of its main process, and in its folder once nothing keeps it from starting."""

import logging
import sys

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

NAMES = ("mocodet", "fvcore", "detectron2")


class _Memory(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def log_to(folder: str | None) -> None:
    """Log on the terminal and, if there is one, in ``log.txt`` of a folder, in place of where this process logged.

    What was logged while there was no folder is written into that of the next call.
    """
    setup_logger.cache_clear()  # with the handlers below: an earlier run of this process would log everything again
    for name in NAMES:
        logger = logging.getLogger(name)
        earlier = [handler for handler in logger.handlers if isinstance(handler, _Memory)]
        logger.handlers.clear()
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
        if folder is None:
            logger.addHandler(_Memory())
            continue
        files = [handler for handler in logger.handlers if getattr(handler, "stream", None) is not sys.stdout]
        for record in (record for memory in earlier for record in memory.records):
            for file in files:
                file.handle(record)

"""Writes ``OUTPUT_DIR/status.json``, in which people and programs can monitor the progress and outcome of a run."""

import logging
import math
import multiprocessing
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from signal import Signals
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from .checkpoint import name_of_last
from .errors import message_of
from .files import read_json, write_json
from .logs import NAMES
from .stopping import Stopped

STATUS_FILE = "status.json"
PERIOD = 60.0  # seconds between two writes
WINDOW = 20  # number of steps over which the median speed is computed
LOSSES = ("loss", "total_loss")  # names of the loss in pre-training and fine-tuning
LATEST = 5  # number of warnings to keep
LONGEST = 500  # maximum number of characters of a warning

RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"

logger = logging.getLogger(__name__)


class _Warnings(logging.Handler):
    """Counts warnings and errors, and stores the latest ones."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self.latest: deque[str] = deque(maxlen=LATEST)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        self.latest.append(record.getMessage()[:LONGEST])


class StatusFile(HookBase):
    """Writes ``status.json`` to the folder of a training run, from the main process, once a minute and at the end.

    The hook reads the loss and times from the `EventStorage`, which does not require waiting for the device. Register
    the hook after the writers. If the file cannot be written, a single warning is logged and training continues.

    Args:
        folder: the ``OUTPUT_DIR`` of the run.
        images_per_step: the number of images in a step, over all processes.
        clock: returns the time in seconds.
    """

    def __init__(self, folder: str, images_per_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = Path(folder)
        self._images_per_step = images_per_step
        self._clock = clock
        self._written = -math.inf
        self._step = 0
        self._warnings = _Warnings()
        self._refused = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count warnings while the training in this block runs, and write how it ended."""
        loggers = [logging.getLogger(name) for name in NAMES]
        for each in loggers:
            each.addHandler(self._warnings)
        try:
            yield
        except Stopped as stop:
            self._write(STOPPED, stop.signal)
            raise
        except KeyboardInterrupt:
            self._write(STOPPED, Signals.SIGINT.name)
            raise
        except SystemExit as error:  # from detectron2, if results differ from TEST.EXPECTED_RESULTS
            self._write(FAILED, f"exit status {error.code}")
            raise
        except BaseException as error:
            self._write(FAILED, message_of(error) or type(error).__name__)
            raise
        else:
            self._write(FINISHED)
        finally:
            for each in loggers:
                each.removeHandler(self._warnings)

    def before_train(self) -> None:
        """Write that the run has started."""
        self._step = self.trainer.start_iter
        self._write(RUNNING)

    def after_step(self) -> None:
        """Write the status if the last write was at least a minute ago."""
        self._step = self.trainer.iter + 1
        if self._clock() - self._written >= PERIOD:
            self._write(RUNNING)

    def _write(self, state: str, reason: str | None = None) -> None:
        if not comm.is_main_process():
            return
        self._written = self._clock()
        try:
            write_json(self._folder / STATUS_FILE, {**_stamp(state, reason), **self._progress(state)})
        except OSError as error:
            if not self._refused:
                logger.warning("%s", error)
            self._refused = True

    def _progress(self, state: str) -> dict[str, Any]:
        of = self.trainer.max_iter
        storage = getattr(self.trainer, "storage", None)  # absent before the first step
        histories = storage.histories() if storage else {}
        seconds = histories["time"].median(WINDOW) if "time" in histories else None
        loss = next((histories[name].latest() for name in LOSSES if name in histories), None)
        return {
            "step": of if state == FINISHED else self._step,
            "of": of,
            "seconds_left": round(seconds * (of - self._step), 1) if seconds and state == RUNNING else None,
            "images_per_second": round(self._images_per_step / seconds, 2) if seconds else None,
            "loss": loss if loss is not None and math.isfinite(loss) else None,
            "last_checkpoint": name_of_last(self._folder) or None,
            "warnings": self._warnings.count,
            "latest_warnings": list(self._warnings.latest),
        }


def _stamp(state: str, reason: str | None) -> dict[str, Any]:
    return {
        "state": state,
        "reason": reason,
        "updated": datetime.now().astimezone().isoformat(timespec="seconds"),
        "pid": _pid_of_command(),
        "host": socket.gethostname(),
    }


def _pid_of_command() -> int:
    """Return the id of the process to send signals to, which is the one that spawned this process, if any."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def note_end(folder: str, state: str, reason: str) -> None:
    """Write how the run that this process started in ``folder`` ended, if no process of the run could do so.

    A status stays unchanged if it belongs to a run of another process or already states how the run ended.
    """
    path = Path(folder, STATUS_FILE)
    try:
        said = read_json(path)
        mine = said["pid"] == os.getpid() and said["host"] == socket.gethostname()
        if mine and said["state"] == RUNNING:
            write_json(path, {**said, **_stamp(state, reason), "seconds_left": None})
    except (OSError, ValueError, KeyError, TypeError):  # no status exists, or the disk is full
        return

"""Stops training after the current step when a signal is received, and saves a checkpoint."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

# Ctrl-C, kill, and the signals that clusters send before they reclaim a machine.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

SAME = 1.0  # seconds within which two signals count as one: the terminal's and the one forwarded by the parent

logger = logging.getLogger(__name__)


def heeded() -> list[int]:
    """Return the `SIGNALS` that this process does not ignore; a shell's background job, for example, ignores Ctrl-C."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class Stopped(SystemExit):
    """Raised when a signal ends training between two steps.

    The exit status is 128 plus the number of the signal, as in a shell.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


class StopWhenAsked(HookBase):
    """Ends training after the current step when one of `SIGNALS` is received, and saves a checkpoint of that step.

    Multiple processes end together, one step later, no matter which of them received the signal. In each step, they
    compare their signals with a small collective on the CPU, which may take until the end of the next step. A second
    signal, more than a second later, ends the process at once. Signals have their usual effect before and after the
    steps.

    Register this hook after all hooks of a step, because the checkpoint must contain the state between two steps.

    Args:
        checkpointer: provides ``save(name, iteration=...)``, which all processes call.
        timeout: the timeout of the collective; by default that of gloo, which is half an hour.
    """

    def __init__(self, checkpointer: Any, timeout: timedelta | None = None) -> None:
        self._checkpointer = checkpointer
        self._timeout = timeout
        self._before: dict[int, Any] = {}
        self._asked = 0  # the number of the received signal
        self._when = 0.0
        self._ended = ""
        self._group: Any = None  # for CPU tensors, if there are multiple processes
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def before_train(self) -> None:
        """Start to handle the signals."""
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        self._before = {number: signal.signal(number, self._note) for number in heeded()}

    def after_step(self) -> None:
        """Stop training if a process has received a signal.

        Raises:
            Stopped: a process has received a signal, and a checkpoint has been written.
        """
        if self.trainer.iter + 1 >= self.trainer.max_iter:  # this was the last step in any case
            self._answer()
            self._leave()
            return
        if number := self._agreed():
            name = f"model_{self.trainer.iter:07d}"
            self._checkpointer.save(name, iteration=self.trainer.iter)
            self._ended = f"stopped by {signal.Signals(number).name}; --resume continues from {name}.pth"
            comm.synchronize()  # otherwise the first process to end would kill the others
            self._leave()
            raise Stopped(number)

    def after_train(self) -> None:
        """Restore the usual effect of the signals and, if one of them ended training, log how to continue."""
        self._leave()
        if self._ended:  # after the last lines of the other hooks
            logger.warning(self._ended)

    def _leave(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _agreed(self) -> int:
        """Return the number of a signal that a process has received, identical in all processes, or 0."""
        if self._group is None:
            return self._asked
        number = self._answer()
        found = torch.tensor(self._asked)
        self._pending = dist.all_reduce(found, dist.ReduceOp.MAX, self._group, async_op=True), found
        return number

    def _answer(self) -> int:
        """Wait for the comparison of the previous step, if any, and return its result."""
        if self._pending is None:
            return 0
        work, found = self._pending
        work.wait()
        self._pending = None
        return int(found)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked and now - self._when > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self._asked:
            self._asked, self._when = number, now
            name = signal.Signals(number).name
            logger.warning("%s: the run ends after this step, with a checkpoint; a second signal ends it at once", name)


@contextmanager
def passed_on() -> Iterator[list[int]]:
    """Forward `SIGNALS` to the processes that this one has spawned, without ending, while the block runs.

    Yields:
        the numbers of the signals received so far.
    """
    found: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        found.append(number)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in heeded()}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """Make a loader process survive signals that are sent to its process group; call this in the loader process.

    The training process needs the loader's batches until its step is complete, and then ends its loaders itself.
    Therefore, a SIGTERM from the parent keeps its usual effect. If the system does not report the sender of a signal,
    every SIGTERM keeps its usual effect.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # only a thread receives it
        threading.Thread(target=_end_when_parent_says, name="signals", daemon=True).start()


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)

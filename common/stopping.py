"""A training that is asked to end ends after its step, with a checkpoint."""

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

# Ctrl-C, kill, and what clusters send some time before they take the machine away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

SAME = 1.0  # seconds within which several are one: a terminal's and the one that the parent passes on

logger = logging.getLogger(__name__)


def heeded() -> list[int]:
    """Return those of `SIGNALS` that this process does not ignore, as a shell has a background job ignore Ctrl-C."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class Stopped(SystemExit):
    """A signal ended the training between two steps; the exit status is 128 plus its number, as of a shell's child."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


class StopWhenAsked(HookBase):
    """Ends a training after its current step when one of `SIGNALS` comes, with a checkpoint of that step.

    With several processes it does so one step later, for all of them together, whichever was asked: each step they
    compare by a small collective on the CPU, which has the time of a step to arrive. A second signal, more than a
    second later, ends the process at once. Signals have their usual effect before and after the steps.

    Register it after all hooks that belong to a step: what the checkpoint holds must be the state between two steps.

    Args:
        checkpointer: has ``save(name, iteration=...)``; all processes call it.
        timeout: of that collective; by default gloo's, half an hour.
    """

    def __init__(self, checkpointer: Any, timeout: timedelta | None = None) -> None:
        self._checkpointer = checkpointer
        self._timeout = timeout
        self._before: dict[int, Any] = {}
        self._asked = 0  # the number of the signal that came
        self._when = 0.0
        self._ended = ""
        self._group: Any = None  # of CPU tensors, where there are several processes
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def before_train(self) -> None:
        """Watch for the signals from now on."""
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        self._before = {number: signal.signal(number, self._note) for number in heeded()}

    def after_step(self) -> None:
        """Stop here if a process was asked to.

        Raises:
            Stopped: it was; a checkpoint has been written.
        """
        if self.trainer.iter + 1 >= self.trainer.max_iter:  # the end is here anyway
            self._answer()
            self._leave()
            return
        if number := self._agreed():
            name = f"model_{self.trainer.iter:07d}"
            self._checkpointer.save(name, iteration=self.trainer.iter)
            self._ended = f"stopped by {signal.Signals(number).name}; --resume goes on from {name}.pth"
            comm.synchronize()  # the first process that ends takes the others with it
            self._leave()
            raise Stopped(number)

    def after_train(self) -> None:
        """Give the signals their usual effect again, and say how to go on if one ended the training."""
        self._leave()
        if self._ended:  # the other hooks have said their last words
            logger.warning(self._ended)

    def _leave(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _agreed(self) -> int:
        """Return the number of a signal that came to any of the processes, the same in all of them; 0 without one."""
        if self._group is None:
            return self._asked
        number = self._answer()
        found = torch.tensor(self._asked)
        self._pending = dist.all_reduce(found, dist.ReduceOp.MAX, self._group, async_op=True), found
        return number

    def _answer(self) -> int:
        """Wait for what the processes said in the step before, if they did."""
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
            logger.warning("%s: the run ends after this step, with a checkpoint; a second one ends it at once", name)


@contextmanager
def passed_on() -> Iterator[list[int]]:
    """Pass `SIGNALS` on to the processes that this one has spawned, and go on, while the block runs.

    Yields:
        the numbers of those that have come.
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
    """Let a loader process live through signals that its whole process group gets; call it in the loader process.

    The training process wants its batches until its step is done, and then ends its loaders itself: a SIGTERM that
    comes from the parent has its effect. Where the system does not say who sent it, all have.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # a thread alone receives it
        threading.Thread(target=_end_when_parent_says, name="signals", daemon=True).start()


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)

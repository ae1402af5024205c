"""A process that must not outlive the one that started it, however that one ends: also by ``kill -9``."""

import multiprocessing
import os
import signal
import threading

VARIABLE = "MOCODET_TETHER"


def install() -> None:
    """End this process and its group once the process that started it has ended, if the environment asks for that.

    ``MOCODET_TETHER`` is the number of the reading end of a pipe whose writing end the other process alone has and
    never writes to. The kernel closes it when that process ends, in whatever way; the end of file is the sign. What
    this process has started dies with it, if this process leads its group, as it does after
    ``Popen(..., start_new_session=True, pass_fds=[...])``.
    """
    number = os.environ.pop(VARIABLE, None)  # what this process starts has no such pipe
    if number is None:
        return
    os.set_inheritable(int(number), False)
    threading.Thread(target=_end_with, args=(int(number),), name="tether", daemon=True).start()


def end_with_parent() -> None:
    """End this process at once when the one that spawned it by `multiprocessing` ends; without one, do nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="tether", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    leads = os.getpgrp() == os.getpid()
    (os.killpg if leads else os.kill)(os.getpid(), signal.SIGKILL)

"""A process that must not outlive the one that started it, even if that one is killed by ``kill -9``."""

import multiprocessing
import os
import signal
import threading

VARIABLE = "MOCODET_TETHER"


def install() -> None:
    """End this process and its group when the process that started it ends, if the environment asks for that.

    ``MOCODET_TETHER`` is the number of the reading end of a pipe. Only the other process has the writing end, and it
    never writes. The kernel closes that end when the process ends, in any way, and this one reads the end of file.
    Processes that this one has started die with it if it leads its group, as it does after
    ``Popen(..., start_new_session=True, pass_fds=[...])``.
    """
    number = os.environ.pop(VARIABLE, None)  # processes that this one starts do not have the pipe
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

"""Ends a process together with the process that started it, even if the latter is killed with ``kill -9``."""

import multiprocessing
import os
import signal
import threading

VARIABLE = "MOCODET_TETHER"


def install() -> None:
    """End this process and its group when the process that started it ends, if the environment requests this.

    ``MOCODET_TETHER`` is the file descriptor of the reading end of a pipe. Only the parent process has the writing
    end, to which it never writes. When the parent ends for any reason, the kernel closes the writing end, and this
    process reads the end of the file. If this process leads its group, as it does after
    ``Popen(..., start_new_session=True, pass_fds=[...])``, the processes that it has started end with it.
    """
    number = os.environ.pop(VARIABLE, None)  # processes started by this one do not inherit the pipe
    if number is None:
        return
    os.set_inheritable(int(number), False)
    threading.Thread(target=_end_with, args=(int(number),), name="tether", daemon=True).start()


def end_with_parent() -> None:
    """End this process at once when the process that spawned it with `multiprocessing` ends, if there is one."""
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

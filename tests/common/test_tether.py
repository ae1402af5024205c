import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from mocodet.common.tether import end_with_parent


def rank(pipe: Connection) -> None:
    end_with_parent()
    pipe.send(os.getpid())
    time.sleep(60)


def parent(pipe: Connection) -> None:
    multiprocessing.get_context("fork").Process(target=rank, args=(pipe,)).start()
    time.sleep(60)


def test_end_with_parent__a_killed_parent_leaves_no_process():
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=parent, args=(sending,))
    process.start()
    sending.close()
    receiving.recv()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    # Its end of the pipe closes when it has ended; it is another process's child, which cannot be waited for.
    assert receiving.poll(10)
    with pytest.raises(EOFError):
        receiving.recv()

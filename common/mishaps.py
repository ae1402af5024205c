"""Replaces the errors that PyTorch raises for external failures, such as a killed process, with clear messages."""

import errno
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_sharer
from traceback import walk_tb
from typing import NamedTuple

import torch
import torch.distributed as dist
from detectron2.utils import comm

PATIENCE = 10.0  # seconds within which the ranks of a run must answer the roll call
COURTESY = 1.0  # additional seconds for the store to reply, and for its process to serve the other ranks
GO_ON = "continue from the last checkpoint with --resume"

# Error messages of gloo, NCCL and the store of the processes.
WAITED_IN_VAIN = re.compile(r"timed out|timeout", re.IGNORECASE)
CONNECTION_LOST = re.compile(r"connection (closed|reset)|broken pipe", re.IGNORECASE)

LOADER_ENDED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\)"
    r" (?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)"
)
OUT_OF_MEMORY = re.compile(r"CUDA out of memory[^.]*|can't allocate memory.*")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a full disk


class Advice(NamedTuple):
    """What to do after a failure, as parts of messages.

    Attributes:
        output: what could not be written.
        workers: the key or flag for the number of loader processes.
        memory: how to use less memory.
        go_on: how to continue.
    """

    output: str
    workers: str
    memory: str
    go_on: str


OF_TRAINING = Advice(
    "a file in OUTPUT_DIR",
    "NUM_WORKERS",
    "use a smaller SOLVER.IMS_PER_BATCH, smaller images, or more processes",
    GO_ON,
)


@contextmanager
def mishaps_told(advice: Advice = OF_TRAINING) -> Iterator[None]:
    """Replace PyTorch's errors for failures outside the program with errors that explain what to do.

    Raises:
        TimeoutError: a process of this group did not join a collective operation in time. The message names its rank,
            which the waiting processes find with a roll call over their store, for up to `PATIENCE` seconds.
        ConnectionError: a process of this group has ended. The message also names its rank.
        ChildProcessError: a loader process was killed.
        OSError: memory ran out, or the disk is full.
    """
    try:
        yield
    except RuntimeError as error:
        if told := _told(error, advice):
            raise told from error
        raise
    except (OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            raise OSError(
                f"{advice.output} could not be written: {error.strerror}. Free space on the disk, and {advice.go_on}"
            ) from error
        frames = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        if resource_sharer.__file__ in frames:  # which transfers the tensors of loader processes
            raise ChildProcessError(_of_loader("", "", advice)) from error
        raise


def _told(error: RuntimeError, advice: Advice) -> OSError | None:
    if ended := _loader_ended(error):
        return ChildProcessError(_of_loader(ended["pids"], ended["signal"] or "", advice))
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(text):
        what = OUT_OF_MEMORY.search(text)
        return OSError(f"memory ran out ({what[0].strip() if what else 'of the GPU'}); {advice.memory}")
    if comm.get_world_size() == 1:
        return None
    if WAITED_IN_VAIN.search(text):
        return TimeoutError(_of_ranks("did not join a collective operation within COLLECTIVE_TIMEOUT"))
    if CONNECTION_LOST.search(text):
        return ConnectionError(_of_ranks("has ended or cannot be reached"))
    return None


def _loader_ended(error: BaseException | None) -> re.Match[str] | None:
    """Return PyTorch's message that a loader process ended, from an error or the errors before it.

    PyTorch raises this error in a signal handler, which can interrupt any code. If it interrupts ``torch.save``,
    closing the incomplete file raises another error.
    """
    while error and not (ended := LOADER_ENDED.search(str(error))):
        error = error.__context__
    return ended if error else None


def _of_loader(pids: str, signal: str, advice: Advice) -> str:
    if "Bus error" in signal:
        return (
            f"loader process {pids} was killed by a bus error, because shared memory (/dev/shm) ran out. Enlarge it or"
            f" lower {advice.workers}, and {advice.go_on}"
        )
    by = f" ({signal})" if signal else ""
    which = f"loader process {pids}" if pids else "a loader process"
    remedy = f"Lower {advice.workers}, and {advice.go_on}"
    return f"{which} was killed{by}; unless someone killed it, memory ran out. {remedy}"


def _of_ranks(what: str) -> str:
    world = comm.get_world_size()
    absent = absent_ranks()
    if not absent:
        return (
            f"all {world} processes are running, but a collective operation failed, because the network between them"
            " is slow or broken or because one process was slower than the others by COLLECTIVE_TIMEOUT. Increase that"
            f" key, and {GO_ON}"
        )
    names = ", ".join(map(str, absent))
    return (
        f"rank {names} of {world} {what}; the process was stopped, hangs, has ended or is that much slower than the"
        f" others. End the remaining processes, and {GO_ON}"
    )


def absent_ranks() -> list[int]:
    """Call the roll over the store of the processes and return the ranks that do not answer within `PATIENCE` seconds.

    Rank 0 hosts the store, except under torchrun. If the store does not respond, rank 0 is considered absent.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    absent = set(range(world)) - {rank}
    called = threading.Event()

    def call() -> None:
        store.set(f"mocodet/present/{rank}", "")
        deadline = time.monotonic() + PATIENCE
        while absent and time.monotonic() < deadline:
            absent.difference_update([other for other in absent if store.check([f"mocodet/present/{other}"])])
            time.sleep(0.05)
        called.set()

    # In a thread, because a store whose process is stopped would block forever.
    thread = threading.Thread(target=call, name="roll call", daemon=True)
    thread.start()
    thread.join(PATIENCE + COURTESY)
    if rank == 0:
        time.sleep(COURTESY)
    return sorted(absent) if called.is_set() else [0]

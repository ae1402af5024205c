import errno
import io
import os
import signal
import threading
from datetime import timedelta
from multiprocessing import resource_sharer

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from mocodet.common import mishaps
from mocodet.common.mishaps import Advice, absent_ranks, mishaps_told
from tests.processes import run_in_processes


def wait_for(fate: int) -> str:
    """In rank 0, wait for rank 1, which gets a signal instead; return the message of the error."""
    mishaps.PATIENCE, mishaps.COURTESY = 0.2, 2.0
    pids = comm.all_gather(os.getpid())
    group = dist.new_group(backend="gloo")  # to meet for it may take longer than a second
    group._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=1))
    if comm.get_rank() == 1:
        os.kill(os.getpid(), fate)
        return ""
    with pytest.raises(TimeoutError) as caught, mishaps_told():
        dist.all_reduce(torch.ones(1), group=group)
    os.kill(pids[1], signal.SIGCONT)
    return str(caught.value)


def test_mishaps_told__a_stopped_rank_is_named():
    told, _ = run_in_processes(wait_for, signal.SIGSTOP)
    assert told.startswith("rank 1 of 2 did not join a collective operation within COLLECTIVE_TIMEOUT; the process was")
    assert told.endswith("continue from the last checkpoint with --resume")
    assert "\n" not in told


class StoreOfStopped:
    """Waits for an answer of rank 0 without end."""

    def set(self, key: str, value: str) -> None:
        pass

    def check(self, keys: list[str]) -> bool:
        return threading.Event().wait()


class StoreOfAll(StoreOfStopped):
    def check(self, keys: list[str]) -> bool:
        return True


@pytest.mark.parametrize(("store", "courtesy", "absent"), [(StoreOfStopped(), 0.1, [0]), (StoreOfAll(), 60.0, [])])
def test_absent_ranks__of_the_keeper_of_the_store(monkeypatch, store, courtesy, absent):
    monkeypatch.setattr(mishaps, "COURTESY", courtesy)
    monkeypatch.setattr(mishaps, "PATIENCE", 0.1)
    monkeypatch.setattr(comm, "get_rank", lambda: 2)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    assert absent_ranks() == absent


class Killed(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_mishaps_told__a_killed_loader_process():
    told = r"^loader process \d+ was killed.*memory ran out\. Lower NUM_WORKERS, and continue .* --resume$"
    with pytest.raises(ChildProcessError, match=told), mishaps_told():
        list(DataLoader(Killed(), num_workers=1))


def test_mishaps_told__a_loader_process_killed_while_a_checkpoint_is_written():
    """PyTorch's signal handler interrupts a write; closing the incomplete file raises another error."""

    class Interrupted(io.BytesIO):
        def write(self, data: bytes) -> int:
            if self.tell() > 1000:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            return super().write(data)

    told = r"^loader process 7 was killed \(Killed\); .* --resume$"
    with pytest.raises(ChildProcessError, match=told) as caught, mishaps_told():
        torch.save({"weights": torch.zeros(10_000)}, Interrupted())
    assert "enforce fail" in str(caught.value.__cause__)


class Tensors(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(2)


def test_mishaps_told__a_loader_process_killed_while_it_hands_over_a_batch(monkeypatch):
    def killed(_: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    loader = iter(DataLoader(Tensors(), num_workers=1))
    monkeypatch.setattr(resource_sharer._resource_sharer, "get_connection", killed)
    with pytest.raises(ChildProcessError, match=r"^a loader process was killed; unless .* --resume$"), mishaps_told():
        next(loader)
    with pytest.raises(ConnectionResetError) as caught, mishaps_told():
        killed(loader)
    assert caught.type is ConnectionResetError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"),
            r"^loader process 7 .* shared memory \(/dev/shm\) ran out\. Enlarge it or lower NUM_WORKERS",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
            r"^memory ran out \(CUDA out of memory\); use a smaller SOLVER\.IMS_PER_BATCH",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"^a file in OUTPUT_DIR could not be written: No space left .* continue from the last checkpoint with",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
            r"^memory ran out \(can't allocate memory: you tried\); use",
        ),
    ],
)
def test_mishaps_told__memory_and_disk(error, told):
    with pytest.raises(OSError, match=told) as caught, mishaps_told():
        raise error
    assert caught.value.__cause__ is error


def test_mishaps_told__with_the_advice_of_a_command():
    advice = Advice("an output file", "--workers", "use a smaller --batch-size", "run the command again")
    for error, told in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), r"^memory ran out \(.*\); use a smaller --batch-size$"),
        (OSError(errno.ENOSPC, "No space left on device"), r"^an output file could not .*, and run the command again$"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            r"Lower --workers, and run the command",
        ),
    ):
        with pytest.raises(OSError, match=told), mishaps_told(advice):
            raise error


def test_mishaps_told__faults_of_the_program_stay_what_they_are():
    with pytest.raises(RuntimeError, match="timed out") as caught, mishaps_told():  # there is one process
        raise RuntimeError("timed out")
    assert caught.type is RuntimeError

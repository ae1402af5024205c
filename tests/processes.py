"""Run a function in a process of its own, or in several gloo processes on this machine and collect what each returns.

The function must stand at the top level of a test module: the processes import it by name. They are forked from a
server that has imported what most of them need, and nothing of the test that asks for them.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

# torch imports the last with the first optimizer.
PRELOADED = ["mocodet.pretrain.trainer", "mocodet.detection.training.trainer", "pytest", "torch._dynamo"]


class Process(ForkServerProcess):
    """A process with the environment of the one that starts it; the server has that of the first test that used it."""

    def start(self) -> None:
        """Note the environment, and start."""
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        """Take the environment, and call the function."""
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()


def forking() -> multiprocessing.context.BaseContext:
    """Return the context in which processes begin with `PRELOADED`; spawned ones take seconds for these imports."""
    multiprocessing.set_forkserver_preload(PRELOADED)  # heeded when the server starts, with the first process
    context = multiprocessing.get_context("forkserver")
    context.Process = Process  # of all who ask for this start method, torch too: there is one context for each method
    return context


def start_process(function: Callable[..., Any], *args: Any) -> multiprocessing.process.BaseProcess:
    """Start a process that calls ``function(*args)``."""
    process = forking().Process(target=function, args=args)
    process.start()
    return process


def run_in_processes(function: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes of one gloo group; return the results in order of rank.

    An exception in any process ends all of them and is raised here.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, folder, function, args)
        mp.start_processes(_worker, arguments, nprocs=world_size, start_method=forking().get_start_method())
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def _worker(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    comm.create_local_process_group(world_size)
    torch.save(function(*args), Path(folder, f"{rank}.pt"))
    comm.synchronize()
    dist.destroy_process_group()

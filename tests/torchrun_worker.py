"""A process of torchrun: the command `mocodet pretrain`, in which one process may be killed at some iteration."""

import json
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from mocodet.pretrain.trainer import PretrainTrainer
from tests.commands import pretrain


class Fault(HookBase):
    def __init__(self, notes: Path, iteration: int) -> None:
        self.notes = notes
        self.iteration = iteration
        self.started = os.environ["TORCHELASTIC_RESTART_COUNT"]

    def before_train(self) -> None:
        note = {
            "world": comm.get_world_size(),
            "local": [comm.get_local_rank(), comm.get_local_size()],
            "threads": torch.get_num_threads(),
            "iteration": self.trainer.start_iter,
        }
        (self.notes / f"start{self.started}_rank{comm.get_rank()}").write_text(json.dumps(note))

    def before_step(self) -> None:
        if self.started == "0" and comm.get_rank() == 1 and self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def work(notes: Path, kill: int, arguments: list[str]) -> None:
    """Pre-train.

    Args:
        notes: folder for a file from each start of each process.
        kill: iteration before which the process of rank 1 dies the first time.
        arguments: arguments of the command.
    """
    fault, built = Fault(notes, kill), PretrainTrainer.build_hooks
    PretrainTrainer.build_hooks = lambda trainer: [*built(trainer), fault]
    if fault.started != "0" and os.environ["RANK"] == "0":
        time.sleep(2)  # so that the other one comes first, and finds the entries of dead processes in torchrun's store
    pretrain(arguments)
    if dist.is_initialized():
        raise RuntimeError("the process group was left behind")

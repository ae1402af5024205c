import argparse
import os
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mocodet.common.launch import argument_parser, distribute, launch
from tests.processes import run_in_processes


def parse(*arguments: str) -> argparse.Namespace:
    return argument_parser("").parse_args(["--config-file", "x.yaml", *arguments])


def refuse(args: argparse.Namespace) -> None:
    raise ValueError("SOLVER.X is 3; expected 4")


def leave_a_note(args: argparse.Namespace) -> None:
    note = Path(args.opts[1], str(comm.get_rank()))
    note.write_text(f"{comm.get_world_size()} {torch.get_num_threads()}")


def test_argument_parser__detectron2_habits():
    args = parse("--num-gpus", "2", "--resume", "SOLVER.BASE_LR", "0.1")
    assert (args.num_gpus, args.resume, args.opts) == (2, True, ["SOLVER.BASE_LR", "0.1"])
    assert (parse().num_gpus, parse().num_machines, parse().machine_rank, parse().dist_url) == (1, 1, 0, "auto")


def test_launch__bad_input_is_one_line(monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: SOLVER.X is 3; expected 4$"):
        launch(refuse, parse())
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"SOLVER.X is 3"):
        launch(refuse, parse())


def test_launch__no_process():
    with pytest.raises(SystemExit, match="--num-gpus must be at least 1, got 0"):
        launch(refuse, parse("--num-gpus", "0"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need two GPUs")
def test_launch__two_cpu_processes_share_the_cores(tmp_path):
    launch(leave_a_note, parse("--num-gpus", "2", "NOTES", str(tmp_path)))
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"2 {threads}"] * 2


def test_distribute__one_process_leaves_the_model_alone():
    model = nn.Linear(2, 2)
    assert distribute(model) is model


def averaged_gradient() -> tuple[bool, torch.Tensor]:
    torch.manual_seed(comm.get_rank())  # DDP spreads the weights of rank 0
    model = distribute(nn.Linear(3, 1))
    model(torch.full((2, 3), comm.get_rank() + 1.0)).mean().backward()
    return isinstance(model, DistributedDataParallel), model.module.weight.grad


def test_distribute__averages_gradients_on_cpu():
    for wrapped, gradient in run_in_processes(averaged_gradient):
        assert wrapped
        torch.testing.assert_close(gradient, torch.full((1, 3), 1.5))

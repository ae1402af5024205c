import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from PIL import Image
from torch import nn
from torch.distributed.launcher import LaunchConfig, elastic_launch
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from mocodet.common.launch import ReportedError, _run_in_process, claim_output, distribute, fresh_store, launch
from mocodet.common.locks import CLAIM, claim
from tests.commands import parsed, pretrain
from tests.processes import forking, run_in_processes
from tests.torchrun_worker import work


def parse(*arguments: str) -> argparse.Namespace:
    return parsed("train", ["--config-file", "coco_R_50_FPN_2x_moco.yaml", *arguments])


def on_cpu(args: argparse.Namespace) -> CfgNode:
    return CfgNode({"MODEL": {"DEVICE": "cpu"}, "COLLECTIVE_TIMEOUT": 7, "OUTPUT_DIR": "nowhere"})


def start(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    launch(main, args, on_cpu)


def refuse(args: argparse.Namespace) -> None:
    raise ValueError("SOLVER.X is 3; expected 4")


def step_into_a_file(args: argparse.Namespace) -> None:
    Path(__file__, "config.yaml").read_text()


def leave_a_note(args: argparse.Namespace) -> None:
    note = Path(args.opts[1], str(comm.get_rank()))
    note.write_text(f"{comm.get_world_size()} {torch.get_num_threads()}")


def test_argument_parser__detectron2_habits():
    args = parse("--num-gpus", "2", "--resume", "SOLVER.BASE_LR", "0.1")
    assert (args.num_gpus, args.resume, args.opts) == (2, True, ["SOLVER.BASE_LR", "0.1"])
    assert (parse().num_gpus, parse().num_machines, parse().machine_rank, parse().dist_url) == (1, 1, 0, "auto")


def test_launch__keeps_freed_memory_where_the_work_is_done(monkeypatch):
    seen = []
    monkeypatch.setattr("mocodet.common.launch.keep_freed_memory", lambda: seen.append("memory"))
    start(lambda args: seen.append("work"), parse())
    assert seen == ["memory", "work"]


def test_launch__bad_input_is_one_line(monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: SOLVER.X is 3; expected 4$"):
        start(refuse, parse())
    with pytest.raises(SystemExit, match=r"^error: \[Errno \d+\] Not a directory: '.*test_launch\.py/config\.yaml'$"):
        start(step_into_a_file, parse())
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"SOLVER.X is 3"):
        start(refuse, parse())


needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need two GPUs")


@pytest.fixture
def forked(monkeypatch):
    """Fork the processes of a run; `tests/detection/training/test_run.py` has a run with spawned processes."""
    starting = partial(torch.multiprocessing.start_processes, start_method=forking().get_start_method())
    monkeypatch.setattr(torch.multiprocessing, "start_processes", starting)


@needs_cpu
@pytest.mark.usefixtures("forked")
def test_launch__bad_input_is_one_line_of_several_processes(monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: SOLVER.X is 3; expected 4$"):
        start(refuse, parse("--num-gpus", "2"))


def on_any(args: argparse.Namespace) -> CfgNode:
    return CfgNode({"MODEL": {"DEVICE": "auto"}})


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}])
def test_launch__several_processes_without_cuda_must_be_meant(monkeypatch, environment):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mocodet.common.launch.detectron2_launch", pytest.fail)
    args = parse("--num-gpus", "8")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = r"^error: 8 processes .*, but .* no GPU .* and MODEL\.DEVICE is 'auto'; add  MODEL\.DEVICE cpu  .*, or .*$"
    with pytest.raises(SystemExit, match=told):
        launch(refuse, args, on_any)


def test_launch__other_errors_of_several_processes_keep_their_traceback(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ProcessRaisedException("Traceback ...\nRuntimeError: a fault of the program", 0, 0)

    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    monkeypatch.setattr("mocodet.common.launch.detectron2_launch", fail)
    with pytest.raises(ProcessRaisedException, match="a fault of the program"):
        start(refuse, parse("--num-gpus", "2"))


def kill_the_second(args: argparse.Namespace) -> None:
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


@needs_cpu
@pytest.mark.usefixtures("forked")
def test_launch__a_killed_process_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: process 1 of 2 was killed \(SIGKILL\); .*\Z"):
        start(kill_the_second, parse("--num-gpus", "2"))


def fill_the_disk(args: argparse.Namespace) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    raise OSError("model_0000023.pth could not be written")


def test_launch__a_disk_too_full_for_the_traceback_of_a_process_leaves_its_line(monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run() -> None:
        try:
            _run_in_process(fill_the_disk, parse("--num-gpus", "1"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    with pytest.raises(ReportedError, match=r"^model_0000023\.pth could not"):
        run()  # torchrun's processes, which have no such parent
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: True)
    with pytest.raises(SystemExit, match=r"^error: model_0000023\.pth could not be written$"):
        run()


@needs_cpu
@pytest.mark.usefixtures("forked")
def test_launch__two_cpu_processes_share_the_cores(tmp_path):
    start(leave_a_note, parse("--num-gpus", "2", "NOTES", str(tmp_path)))
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"2 {threads}"] * 2


def note_what_is_known(args: argparse.Namespace) -> None:
    Path(args.opts[1], str(comm.get_rank())).write_text(sys.modules["my_own"].WORD)


@needs_cpu
@pytest.mark.usefixtures("forked")
def test_launch__imports_the_users_modules_in_every_process(tmp_path, monkeypatch):
    (tmp_path / "my_own.py").write_text("WORD = 'mine'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    start(note_what_is_known, parse("--import", "my_own", "--num-gpus", "2", "NOTES", str(tmp_path)))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["mine"] * 2
    with pytest.raises(SystemExit, match=r"^error: --import my_other: No module named 'my_other'; expected a module"):
        start(note_what_is_known, parse("--import", "my_other"))


@needs_cpu
def test_launch__processes_wait_for_each_other_as_long_as_the_config_says(monkeypatch):
    given = {}
    monkeypatch.setattr("mocodet.common.launch.detectron2_launch", lambda *_, **more: given.update(more))
    start(refuse, parse("--num-gpus", "2"))
    assert given["timeout"] == timedelta(seconds=7)
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"^error: COLLECTIVE_TIMEOUT is 0; expected at least 1 second$"):
        launch(refuse, parse("--num-gpus", "2"), lambda args: CfgNode({**on_cpu(args), "COLLECTIVE_TIMEOUT": 0}))


@pytest.fixture
def alone_under_torchrun(monkeypatch):
    """The environment that torchrun gives to its only process."""
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    counts = {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
    for name, value in counts.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("alone_under_torchrun")
def test_torchrun__one_process_needs_no_group():
    seen = []
    start(lambda args: seen.append((args.opts, dist.is_initialized(), comm.get_world_size())), parse("SEED", "1"))
    assert seen == [(["SEED", "1"], False, 1)]
    with pytest.raises(SystemExit, match=r"^error: SOLVER.X is 3; expected 4$"):
        start(refuse, parse())


@pytest.mark.usefixtures("alone_under_torchrun")
@pytest.mark.parametrize(
    "flags",
    [("--num-gpus", "2"), ("--num-machines", "2"), ("--machine-rank", "1"), ("--dist-url", "tcp://127.0.0.1:29500")],
)
def test_torchrun__own_launcher_s_flags_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        parse(*flags)
    assert (
        f" error: {flags[0]} cannot be combined with torchrun, which has already started the processes"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("alone_under_torchrun")
def test_torchrun__machines_must_be_alike(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="started 2 of 5 processes on this machine; use the same"):
        start(refuse, parse())


@pytest.mark.usefixtures("alone_under_torchrun")
def test_torchrun__more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit, match="torchrun started 2 processes on this machine, which has 1 GPUs"):
        start(refuse, parse())


def test_fresh_store__every_start_has_its_own():
    store, world = dist.HashStore(), 3
    # A start without rank 0; its questions remain.
    store.set_timeout(timedelta(seconds=0.2))
    for rank in (1, 2):
        with pytest.raises(dist.DistStoreError):
            fresh_store(store, rank, world)
    store.set_timeout(timedelta(seconds=60))

    def join(rank: int, start: int) -> str:
        time.sleep(0.1 * ((rank + start) % world))  # each time another one comes first
        mine = fresh_store(store, rank, world)
        if rank == start:
            mine.set("address", f"of start {start}")
        return mine.get("address").decode()

    with ThreadPoolExecutor(world) as threads:
        for start in range(world):
            found = list(threads.map(join, range(world), [start] * world))
            assert found == [f"of start {start}"] * world


def small_run(output: Path, images: Path, *flags: str) -> list[str]:
    """Write the config of a run of six iterations on two processes, checkpoints after four; return its arguments."""
    output.mkdir()
    config = output.parent / f"{output.name}.yaml"
    config.write_text(
        f"""
        OUTPUT_DIR: {output}
        DATA: {{ROOT: {images}, NUM_WORKERS: 0}}
        AUGMENTATION: {{CROP_SIZE: 32}}
        MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu}}
        CONTRAST: {{QUEUE_SIZE: 20, MOMENTUM: 0.9}}
        SOLVER: {{IMS_PER_BATCH: 8, MAX_EPOCHS: 3, PRECISION: float32, CHECKPOINT_PERIOD: 4}}
        """
    )
    return ["--config-file", str(config), *flags]


@pytest.fixture
def own_signals():
    """Takes back what torchrun does when one comes."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@needs_cpu
@pytest.mark.usefixtures("own_signals")
def test_torchrun__restarts_a_killed_process_from_the_last_checkpoint(tmp_path):
    images, notes = tmp_path / "images", tmp_path / "notes"
    for folder in (images, notes):
        folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(images / f"{number}.png")

    whole, run = tmp_path / "whole", tmp_path / "run"
    run_in_processes(pretrain, small_run(whole, images))
    # What `torchrun` makes of --max-restarts 1 --rdzv-backend c10d and so on, but that processes are forked.
    torchrun = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="restarts",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
        monitor_interval=0.1,
        start_method=forking().get_start_method(),
    )
    elastic_launch(torchrun, work)(notes, 5, small_run(run, images, "--resume"))

    expected = torch.load(whole / "model_final.pth", weights_only=True)
    found = torch.load(run / "model_final.pth", weights_only=True)
    assert found["iteration"] == expected["iteration"] == 5
    for kind in ("model", "rng", "shuffle"):
        assert_equal(found[kind], expected[kind])
    assert_equal(found["optimizer"]["state"], expected["optimizer"]["state"])
    # It was killed, and resumed in the middle of the run.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    for started in range(2):
        for rank in range(2):
            note = json.loads((notes / f"start{started}_rank{rank}").read_text())
            assert note == {"world": 2, "local": [rank, 2], "threads": threads, "iteration": 4 * started}


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


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


def claims(free: Path, held: Path) -> tuple[bool, int, str]:
    """Whether the lock exists when this process may continue, the process that holds it, and the fate of the other."""
    with claim_output(str(free)):
        there, holder = (free / CLAIM).is_file(), json.loads((free / CLAIM).read_text())["pid"]
        comm.synchronize()
    try:
        with claim_output(str(held)):
            return there, holder, "may go on"
    except BlockingIOError as error:
        return there, holder, str(error)


def test_claim_output__no_process_goes_on_before_the_main_one_has_it(tmp_path):
    with claim(tmp_path / "held"):
        first, second = run_in_processes(claims, tmp_path / "free", tmp_path / "held")
    assert first == second
    assert first[0]
    assert first[2].startswith(f"another process (pid {os.getpid()} on ")
    assert first[2].endswith("choose another OUTPUT_DIR")
    assert not (tmp_path / "free" / CLAIM).exists()

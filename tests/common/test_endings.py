"""Trainings in processes of their own, ended by a full disk, a signal or the end of their parent."""

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import commands
from tests.detection.tiny import make_voc, options
from tests.processes import start_process

PATIENCE = 120.0  # seconds for work of a few seconds, on a busy machine
STEP = 2  # the trainings wait before this step; they write a checkpoint after every second step


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """Tell whether a process runs; one that has ended may still be a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command(name: str, arguments: list[str], terminal: Path, waits_at: str) -> None:
    """Run a command that waits at a gate; its output goes to ``terminal``. Its processes are forked, not spawned.

    So none of them repeats imports that take seconds.
    """
    with terminal.open("wb") as printed:
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
    os.environ["MOCODET_TEST_GATE"] = waits_at  # read by `tests.gate`
    torch.multiprocessing.start_processes = partial(torch.multiprocessing.start_processes, start_method="fork")
    commands.run(name, arguments)


class Run:
    """A training that waits before `STEP`.

    Args:
        half: the command.
        arguments: its arguments.
        folder: for what it prints, and the gate.
        processes: of the training.
    """

    def __init__(self, half: str, arguments: list[str], folder: Path, processes: int = 1):
        folder.mkdir()
        self.folder, self.processes = folder, processes
        flags = ["--import", "tests.gate", *(["--num-gpus", str(processes)] if processes > 1 else [])]
        self.process = start_process(command, half, [*flags, *arguments], self.terminal, f"{folder}:{STEP}")

    @property
    def terminal(self) -> Path:
        return self.folder / "terminal.txt"

    @property
    def ranks(self) -> list[int]:
        """The ids of the processes that have reached the gate."""
        return [int(path.read_text()) for path in self.folder.glob("[0-9]")]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        def or_ended() -> object:
            assert self.process.exitcode is None, f"exit status {self.process.exitcode}: {self.terminal.read_text()}"
            return condition()

        until(or_ended, what)

    def wait_at_gate(self) -> None:
        self.wait(lambda: len(self.ranks) == self.processes, "the processes at the gate")

    def wait_for(self, text: str) -> None:
        self.wait(lambda: text in self.terminal.read_text(), text)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended, and its exit code is on the way here
            os.kill(self.process.pid, number)

    def go_on(self) -> None:
        (self.folder / "open").touch()

    def end(self) -> tuple[int | None, str]:
        """Return the exit status and the output."""
        self.process.join(PATIENCE)
        return self.process.exitcode, self.terminal.read_text()

    def clean_up(self) -> None:
        self.process.kill()
        self.process.join()
        for pid in filter(is_there, self.ranks):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a `Run` of either half in ``tmp_path / "output"``."""
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    started = []

    def pretraining() -> list[str]:
        (tmp_path / "images").mkdir(exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
        for number, image in enumerate(noise):
            Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        config = tmp_path / "config.yaml"
        config.write_text(
            f"""
            OUTPUT_DIR: {tmp_path / "output"}
            LOG_PERIOD: 1
            DATA: {{ROOT: {tmp_path / "images"}, NUM_WORKERS: 0}}
            AUGMENTATION: {{CROP_SIZE: 32}}
            MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
            CONTRAST: {{QUEUE_SIZE: 20, MOMENTUM: 0.9}}
            SOLVER: {{IMS_PER_BATCH: 8, MAX_EPOCHS: 3, PRECISION: float32, CHECKPOINT_PERIOD: 2}}
            """
        )
        return ["--config-file", str(config)]

    def fine_tuning() -> list[str]:
        train, test = make_voc(tmp_path / "voc", 2), make_voc(tmp_path / "voc", 1, "test")
        keys = {"SOLVER__MAX_ITER": 6, "SOLVER__CHECKPOINT_PERIOD": 2, "TEST__PRECISE_BN__ENABLED": False}
        keys |= {"INPUT__MIN_SIZE_TRAIN": (32,), "INPUT__MIN_SIZE_TEST": 32}
        config = "pascal_voc_R_50_DC5_24k_random.yaml"
        return ["--config-file", config, *options(tmp_path / "output", train, test, **keys)]

    arguments = {"pretrain": pretraining, "train": fine_tuning}

    def start_one(half: str, *flags: str, **more: object) -> Run:
        started.append(Run(half, [*flags, *arguments[half]()], tmp_path / f"run{len(started)}", **more))
        return started[-1]

    yield start_one
    for run in started:
        run.clean_up()


@pytest.mark.parametrize(("half", "number"), [("pretrain", signal.SIGUSR1), ("train", signal.SIGINT)])
def test_run__goes_on_after_a_full_disk_and_stops_after_a_step_when_asked(start, tmp_path, half, number):
    output = tmp_path / "output"
    run = start(half)
    run.wait_at_gate()
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    run.go_on()
    status, printed = run.end()
    assert status == 1
    (error,) = [line for line in printed.splitlines() if line.startswith("error:")] or pytest.fail(printed)
    assert f"{output}/model_0000003.pth could not be written: File too large. An existing file at this path is" in error
    assert f"--resume continues from {output}/model_0000001.pth" in error
    assert "Traceback" not in printed
    assert [path.name for path in output.glob("*.pth")] == ["model_0000001.pth"]
    assert list(output.glob(".*.tmp")) == []

    run = start(half, "--resume")
    run.wait_at_gate()
    run.signal(number)
    run.wait_for(f"{number.name}: the run ends after this step, with a checkpoint")
    run.go_on()
    assert_stopped(run, output, number, STEP)
    assert "Starting training from iteration 2" in run.terminal.read_text()


def assert_stopped(run: Run, output: Path, number: signal.Signals, step: int) -> None:
    status, printed = run.end()
    assert status == 128 + number
    assert printed.count(f"stopped by {number.name}; --resume continues from model_{step:07d}.pth") == 1
    assert "Traceback" not in printed
    assert (output / "last_checkpoint").read_text() == f"model_{step:07d}.pth"
    assert torch.load(output / f"model_{step:07d}.pth", weights_only=True)["iteration"] == step


def test_run__a_second_signal_ends_it_at_once(start, tmp_path):
    run = start("pretrain")
    run.wait_at_gate()
    run.signal(signal.SIGTERM)
    run.wait_for("a second signal ends it at once")

    def ended() -> bool:
        if run.process.exitcode is None:
            run.signal(signal.SIGTERM)  # those that come in the first second are one with the first
        return run.process.exitcode is not None

    until(ended, "the end")
    assert run.process.exitcode == -signal.SIGTERM
    assert not (tmp_path / "output" / f"model_{STEP:07d}.pth").exists()


def test_two_processes__a_signal_to_the_parent_alone_stops_them(start, tmp_path):
    run = start("pretrain", processes=2)
    run.wait_at_gate()
    run.signal(signal.SIGTERM)
    run.wait_for("SIGTERM: the run ends after this step, with a checkpoint")
    run.go_on()
    assert_stopped(run, tmp_path / "output", signal.SIGTERM, STEP + 1)  # they agree during one more
    assert not any(map(is_there, run.ranks))


def test_two_processes__end_with_their_parent_however_it_ends(start):
    run = start("pretrain", processes=2)
    run.wait_at_gate()
    ranks = run.ranks
    assert all(map(is_there, ranks))
    run.process.kill()
    until(lambda: not any(map(is_there, ranks)), "the end of the ranks")

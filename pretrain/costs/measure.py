"""What a run costs on this machine: some steps of the real trainer, timed, and the memory that they took."""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode

from mocodet.common.benchmark.run import quiet
from mocodet.common.progress import progress

from ..benchmark.photographs import SMALL, draw_photographs
from ..benchmark.train import ENDLESS, our_iterations
from ..data.cache import CachedImages
from ..data.exclusion import read_exclusion
from ..data.folders import ImageFolder
from ..data.sampler import EpochSampler
from ..device import amp_dtype, resolve_device
from ..methods import METHODS
from ..methods.shuffle_bn import bn_groups
from ..trainer import PretrainTrainer
from .count import pretended_processes

# Batches that a `DataLoader` asks of each loader process in advance.
PREFETCHED = 2


class Measured(NamedTuple):
    """What steps took on this machine.

    Attributes:
        device: in words.
        data: which images they saw, in words.
        steps: how many were timed.
        seconds: of a step, mean.
        waiting: how many of them the step waited for images.
        memory: bytes by what they are for.
    """

    device: str
    data: str
    steps: int
    seconds: float
    waiting: float
    memory: Mapping[str, float]


def measure_run(cfg: CfgNode, world: int, images: int, steps: int) -> Measured:
    """Time steps of the run of ``cfg`` in this process, which has the part of a batch that one of ``world`` has.

    The images are some of ``DATA.ROOT``, where there is such a folder and no list of files, else photographs of 224
    pixels that are drawn.
    Logging is in the time; evaluations, checkpoints and the exchange with other processes are not.

    Args:
        cfg: a config of pre-training, validated.
        world: processes of the run.
        images: in its data set.
        steps: to be timed.

    Raises:
        ValueError: a batch that does not divide between the processes, or is larger than the data set; an image that
            cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():  # warnings would be about the small run
        small, data = small_run(cfg, world, images, Path(folder))
        device = resolve_device(small)
        reset_peaks(device)
        trainer = PretrainTrainer(small)
        step = our_iterations(trainer, 1)
        # Kernels are chosen, memory is taken; and what loader processes have ready by then says nothing of their rate.
        warm_up = 2 + PREFETCHED * small.DATA.NUM_WORKERS
        waiting, began = 0.0, 0.0
        with closing(trainer.delivery.batches):  # type: ignore[type-var] # a generator; its end ends the processes
            for number in progress(range(warm_up + steps), "step", warm_up + steps):
                if number == warm_up:
                    wait_for(device)
                    waiting, began = 0.0, time.perf_counter()
                step()
                waiting += trainer.delivery.waited
            wait_for(device)
            seconds = time.perf_counter() - began
            memory = memory_of(trainer, images)
    return Measured(describe(small, device), data, steps, seconds / steps, waiting / steps, memory)


def small_run(cfg: CfgNode, world: int, images: int, folder: Path) -> tuple[CfgNode, str]:
    """Return the config of a run in ``folder`` with one process's part of the batch, and say which images it sees."""
    small = cfg.clone()
    small.defrost()
    with pretended_processes(world):
        rows = EpochSampler(images, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED).rows
        if "MODEL.BN_GROUPS" in METHODS[cfg.METHOD].keys:
            small.MODEL.BN_GROUPS = bn_groups(cfg)
    photographs, output = folder / "images", folder / "output"
    if cfg.DATA.ROOT and Path(cfg.DATA.ROOT).is_dir() and not cfg.DATA.ANNOTATIONS:
        data = f"{link_some(cfg, photographs, rows)} images of {cfg.DATA.ROOT}"
    else:
        draw_photographs(photographs / "class", rows, SMALL)
        unread = "DATA.SHARDS" if cfg.DATA.SHARDS else "DATA.ANNOTATIONS" if cfg.DATA.ANNOTATIONS else ""
        why = f"--measure does not read {unread}" if unread else f"there is no folder DATA.ROOT {cfg.DATA.ROOT!r}"
        data = f"{rows} drawn photographs of 224 pixels ({why})"
    output.mkdir()
    changes = {
        "DATA.ROOT": str(photographs),
        "DATA.CACHE_DIR": str(folder / "cache"),
        "OUTPUT_DIR": str(output),
        "SEED": 0,
        "SOLVER.IMS_PER_BATCH": rows,
        "SOLVER.MAX_ITER": 0,
        **ENDLESS,
    }
    nothing = ("DATA.SHARDS", "DATA.EXCLUDE", "DATA.ANNOTATIONS", "DATA.VAL_ROOT", "DATA.VAL_ANNOTATIONS")
    changes |= dict.fromkeys((*nothing, "MODEL.WEIGHTS", "KNN.TRAIN_ROOT", "KNN.VAL_ROOT"), "")
    changes["KNN.DATASET"] = []
    small.merge_from_list([word for pair in changes.items() for word in pair])
    return small, data


def link_some(cfg: CfgNode, folder: Path, batch: int) -> int:
    """Link images of ``DATA.ROOT`` without ``DATA.EXCLUDE``, evenly spaced, into ``folder``; return how many.

    They are four batches where there are as many.

    Raises:
        FileNotFoundError: ``DATA.ROOT`` holds no image. ValueError: it holds less than one batch.
    """
    root = cfg.DATA.ROOT
    paths = ImageFolder(root, read_exclusion(cfg.DATA.EXCLUDE, root, cfg.OUTPUT_DIR, resuming=False)).paths
    if len(paths) < batch:
        raise ValueError(f"{root} holds {len(paths)} images, fewer than one process's part of a batch, {batch}")
    count = min(len(paths), 4 * batch)
    for number in range(count):
        path = Path(paths[number * len(paths) // count])
        link = folder / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return count


def describe(cfg: CfgNode, device: torch.device) -> str:
    """Say in words what computes, and in which precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return f"{name}, {str(amp_dtype(cfg, device)).removeprefix('torch.')}"


def wait_for(device: torch.device) -> None:
    """Return when the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peaks(device: torch.device) -> None:
    """Let `memory_of` see what is taken from now on; of main memory on Linux only."""
    if device.type == "cuda":
        torch.cuda.init()  # without which there are no statistics to reset
        torch.cuda.reset_peak_memory_stats(device)
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident set


def memory_of(trainer: PretrainTrainer, images: int) -> dict[str, float]:
    """Return the bytes that a process of the run takes at its peak, by what they are for.

    Args:
        trainer: has taken steps on a small data set; its loader processes are alive.
        images: in the data set of the run, by which caches and banks grow.
    """
    memory: dict[str, float] = {}
    if trainer.device.type == "cuda":
        memory["tensors on the GPU, peak"] = torch.cuda.max_memory_allocated(trainer.device)
    memory["main memory of the process, peak"] = peak_resident(os.getpid())
    if loaders := multiprocessing.active_children():
        largest = max(peak_resident(loader.pid) for loader in loaders if loader.pid)
        memory[f"main memory of each of {len(loaders)} loader processes, peak"] = largest
    seen = trainer.sampler.dataset_size
    if more := METHODS[trainer.cfg.METHOD].bytes_per_image(trainer.cfg) * (images - seen):
        memory[f"what {images - seen:,} images more add to the method's state"] = more
    cached = trainer.dataset.images
    if isinstance(cached, CachedImages):
        memory[f"DATA.CACHE {trainer.cfg.DATA.CACHE} of {images:,} images"] = cached.data.nbytes * images / seen
    return memory


def peak_resident(process: int) -> float:
    """Return the largest resident set that a process has had, in bytes; without Linux that of this process."""
    status = Path(f"/proc/{process}/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

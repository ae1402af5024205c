"""Measures the costs of a run on this machine: the time and memory of a few steps of the real trainer."""

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

# Number of batches that a `DataLoader` prefetches in each loader process.
PREFETCHED = 2


class Measured(NamedTuple):
    """Time and memory of steps on this machine.

    Attributes:
        device: description of the device.
        data: description of the images.
        steps: number of timed steps.
        seconds: mean duration of a step.
        waiting: mean time that a step waited for images, in seconds.
        memory: bytes by purpose.
    """

    device: str
    data: str
    steps: int
    seconds: float
    waiting: float
    memory: Mapping[str, float]


def measure_run(cfg: CfgNode, world: int, images: int, steps: int) -> Measured:
    """Time steps of the run described by ``cfg`` in this process, with the batch size of one of ``world`` processes.

    The images are taken from ``DATA.ROOT`` if this folder exists and no annotation file is given. Otherwise,
    photographs of 224 pixels are generated. The time includes logging, but not evaluations, checkpoints or
    communication with other processes.

    Args:
        cfg: a validated config of pre-training.
        world: number of processes in the run.
        images: number of images in its data set.
        steps: number of steps to time.

    Raises:
        ValueError: the batch cannot be divided evenly among the processes or is larger than the data set, or an image
            cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():  # warnings would only apply to the small run
        small, data = small_run(cfg, world, images, Path(folder))
        device = resolve_device(small)
        reset_peaks(device)
        trainer = PretrainTrainer(small)
        step = our_iterations(trainer, 1)
        # Warm up: kernels are selected, memory is allocated, and prefetched batches, which would hide the loading rate,
        # are used up.
        warm_up = 2 + PREFETCHED * small.DATA.NUM_WORKERS
        waiting, began = 0.0, 0.0
        with closing(trainer.delivery.batches):  # type: ignore[type-var] # a generator; closing it stops the processes
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
    """Return a config with the batch size of one process that runs in ``folder``, and a description of its data."""
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
        why = f"--measure does not read {unread}" if unread else f"DATA.ROOT {cfg.DATA.ROOT!r} does not exist"
        data = f"{rows} generated photographs of 224 pixels ({why})"
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
    """Link evenly spaced images of ``DATA.ROOT`` without ``DATA.EXCLUDE`` into ``folder`` and return their number.

    At most four batches are linked.

    Raises:
        FileNotFoundError: ``DATA.ROOT`` contains no images.
        ValueError: ``DATA.ROOT`` contains less than one batch.
    """
    root = cfg.DATA.ROOT
    paths = ImageFolder(root, read_exclusion(cfg.DATA.EXCLUDE, root, cfg.OUTPUT_DIR, resuming=False)).paths
    if len(paths) < batch:
        raise ValueError(f"{root} contains {len(paths)} images, fewer than the batch of one process, {batch}")
    count = min(len(paths), 4 * batch)
    for number in range(count):
        path = Path(paths[number * len(paths) // count])
        link = folder / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return count


def describe(cfg: CfgNode, device: torch.device) -> str:
    """Return a description of the device and the precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return f"{name}, {str(amp_dtype(cfg, device)).removeprefix('torch.')}"


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peaks(device: torch.device) -> None:
    """Reset the peaks that `memory_of` reports. The peak of main memory can only be reset on Linux."""
    if device.type == "cuda":
        torch.cuda.init()  # creates the statistics
        torch.cuda.reset_peak_memory_stats(device)
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident set size; see proc(5)


def memory_of(trainer: PretrainTrainer, images: int) -> dict[str, float]:
    """Return the peak memory of a process of the run in bytes, by purpose.

    Args:
        trainer: a trainer that has run steps on a small data set and whose loader processes are still alive.
        images: number of images in the data set of the run, which determines the size of caches and banks.
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
        memory[f"method state for {images - seen:,} more images"] = more
    cached = trainer.dataset.images
    if isinstance(cached, CachedImages):
        memory[f"DATA.CACHE {trainer.cfg.DATA.CACHE} for {images:,} images"] = cached.data.nbytes * images / seen
    return memory


def peak_resident(process: int) -> float:
    """Return the peak resident set size of a process in bytes. Outside Linux, return that of this process."""
    status = Path(f"/proc/{process}/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

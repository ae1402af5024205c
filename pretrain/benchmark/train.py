"""``mocodet benchmark train``: compares the trainer with the original training loop, both reading image files."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from mocodet.common.benchmark.alternate import alternate, clock_of
from mocodet.common.benchmark.report import Row, rows_of
from mocodet.common.benchmark.settings import merge_changes

from ..config import check_config, get_cfg
from ..data.folders import ImageFolder
from ..device import resolve_device
from ..keys import check_value, value_of
from ..trainer import PretrainTrainer
from .photographs import SMALL, draw_photographs
from .plain_moco import PlainMoCo, PlainStep
from .plain_views import PlainViews

REFERENCE = "the original's loop, float32"

# Settings that the reference implements. With others, the two would do different work.
REFERENCE_HAS = {
    "MODEL.HEAD": "mlp",
    "MODEL.DIM": 128,
    "MODEL.SMALL_STEM": False,
    "AUGMENTATION.NAME": "moco_v2",
    "AUGMENTATION.MIN_SCALE": 0.2,
    "AUGMENTATION.BLUR_SIGMA": 2.0,
}

# Prevents a run from ending or saving a checkpoint while it is measured.
ENDLESS = {"SOLVER.MAX_EPOCHS": 10**6, "SOLVER.CHECKPOINT_PERIOD": 10**9}


@contextmanager
def config_of(args: argparse.Namespace) -> Iterator[CfgNode]:
    """Create a config that uses generated photographs and loads images in the training process.

    Raises:
        ValueError: METHOD is not moco.
    """
    cfg = get_cfg()
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder, "images"), Path(folder, "output")
        changes = {
            "DATA.ROOT": images,
            "DATA.NUM_WORKERS": 0,
            "MODEL.DEVICE": args.device,
            **ENDLESS,
            "OUTPUT_DIR": output,
        }
        merge_changes(cfg, args.config_file, changes)
        if cfg.METHOD != "moco":
            raise ValueError(
                f"--config-file {args.config_file} has METHOD {cfg.METHOD!r}; expected 'moco', the only reference"
            )
        for key, expected in REFERENCE_HAS.items():
            found = value_of(cfg, key)
            check_value(found == expected, key, found, f"{expected}, as in the reference")
        queue, batch = cfg.CONTRAST.QUEUE_SIZE, cfg.SOLVER.IMS_PER_BATCH
        check_value(queue % batch == 0, "CONTRAST.QUEUE_SIZE", queue, f"a multiple of the batch size {batch}")
        output.mkdir()
        draw_photographs(images, 4 * cfg.SOLVER.IMS_PER_BATCH, SMALL)
        check_config(cfg)
        yield cfg


def plain_iterations(cfg: CfgNode, iterations: int) -> Callable[[], None]:
    """Return a function that trains for ``iterations`` more iterations per call, like the original code."""
    device = resolve_device(cfg)
    dataset = PlainViews(ImageFolder(cfg.DATA.ROOT).paths, cfg.AUGMENTATION.CROP_SIZE)
    contrast = cfg.CONTRAST
    model = PlainMoCo(
        cfg.MODEL.ARCH,
        queue_size=contrast.QUEUE_SIZE,
        momentum=contrast.MOMENTUM,
        temperature=contrast.TEMPERATURE,
    )
    step = PlainStep(model.to(device), cfg.SOLVER.BASE_LR)

    def endless() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from DataLoader(dataset, cfg.SOLVER.IMS_PER_BATCH, shuffle=True, drop_last=True)

    batches = endless()

    def run() -> None:
        for _ in range(iterations):
            step(*(view.to(device) for view in next(batches)))

    return run


def our_iterations(trainer: PretrainTrainer, iterations: int) -> Callable[[], None]:
    """Return a function that trains for ``iterations`` more iterations per call, including all hooks."""
    trainer.storage = EventStorage()
    trainer.before_train()

    def run() -> None:
        with trainer.storage:
            for _ in range(iterations):
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                trainer.storage.step()
                trainer.iter += 1

    return run


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of the only case."""
    with config_of(args) as cfg:
        device = resolve_device(cfg)
        clock = clock_of(device)
        contestants = {
            REFERENCE: plain_iterations(cfg, args.iterations),
            "mocodet": our_iterations(PretrainTrainer(cfg), args.iterations),
        }
        seconds = alternate(contestants, args.pairs, clock)
        arch, size, batch = cfg.MODEL.ARCH, cfg.AUGMENTATION.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH
    yield rows_of(
        f"training, {arch}, {SMALL.name} to {size} px, batch {batch}",
        seconds,
        reference=REFERENCE,
        clock=clock,
        items=(args.iterations * batch, "images"),
        settings={"config": args.config_file, "iterations": args.iterations, "device": device.type},
    )

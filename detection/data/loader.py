"""Loads the training images in batches that depend only on the seed and the batch number."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader, Dataset

from mocodet.common.formats.image import image_size
from mocodet.common.seeds import generators_of
from mocodet.common.stopping import leave_signals_to_parent

from ..seeds import Purpose, seed_for
from .fraction import image_name
from .order import Draw, TrainingOrder

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class DrawnImages(Dataset[dict[str, Any]]):
    """Images augmented by a mapper with a separate seed for each, independent of processes and earlier images.

    Args:
        records: detectron2's standard dicts.
        mapper: function that converts a record to the model's input, using the global random generators.
        seed: the seed of the run.

    Attributes:
        identity: a string that identifies these images in this order.
    """

    def __init__(self, records: list[dict[str, Any]], mapper: Mapper, seed: int) -> None:
        names = hashlib.sha256("\n".join(map(image_name, records)).encode())
        self.identity = f"{len(records)} ({names.hexdigest()[:12]})"
        self._records = DatasetFromList(records, copy=False)  # in memory shared by all processes
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """Return the mapped image of a draw."""
        image, number = draw
        with generators_of(seed_for(self._seed, Purpose.IMAGE, number)):
            return self._mapper(self._records[image])


def build_training_loader(cfg: CfgNode, records: list[dict[str, Any]], mapper: Mapper) -> DataLoader:
    """Build the endless loader of this process's batches, each of which is a list of results of ``mapper``.

    Its ``batch_sampler`` is a `TrainingOrder`. It shuffles as detectron2's loader does, without changing the state of
    the process's random generators.

    Args:
        cfg: a config with the settings in ``DATALOADER``. The batches of all processes together contain
            ``SOLVER.IMS_PER_BATCH`` images. ``SEED`` must not be negative.
        records: detectron2's standard dicts.
        mapper: see `DrawnImages`.
    """
    with generators_of(seed_for(cfg.SEED, Purpose.ORDER)):  # detectron2's samplers take their seeds from them
        indices = build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=records)["sampler"]
    wide = [_is_wide(record) for record in records] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    return DataLoader(
        DrawnImages(records, mapper, cfg.SEED),
        batch_sampler=TrainingOrder(indices, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), wide),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # for the workers' seeds, which are not used
    )


def _is_wide(record: Mapping[str, Any]) -> bool:
    if "width" not in record:
        width, height = image_size(PathManager.get_local_path(record["file_name"]), record["file_name"])
        return width > height
    return record["width"] > record["height"]


def begin_worker(_: int) -> None:
    """Let a loader process survive signals to its process group. Use this function as ``worker_init_fn``."""
    leave_signals_to_parent()

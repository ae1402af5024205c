"""Builds the objects of a pre-training run from its config."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.text import first_few

from .data.augment import ViewMaker
from .data.augment.opencv import DeviceViews, OpenCVViews
from .data.augment.pillow import PillowViews, build_view
from .data.augment.recipes import find_recipe
from .data.cache import cache_images
from .data.decoding import Images
from .data.exclusion import EVERYTHING, Exclusion, read_exclusion
from .data.folders import ImageFolder, warn_of_passed_over
from .data.labelled import open_labelled
from .data.replacing import ReplacingViews
from .data.sampler import EpochSampler, GlobalBatches
from .data.shards import ShardImages, ShardSampler
from .device import resolve_device
from .methods import METHODS
from .methods.base import DataFacts
from .schedules import max_iterations

logger = logging.getLogger("mocodet.pretrain")


@dataclass(kw_only=True)
class TrainingData(DataFacts):
    """The data that a run trains on.

    Attributes:
        dataset: creates the views of an image.
        sampler: yields the batches of images to load.
        exclusion: the files excluded from training.
    """

    dataset: ReplacingViews
    sampler: GlobalBatches
    exclusion: Exclusion = EVERYTHING


def build_data(cfg: CfgNode, *, resuming: bool = False, allow_pipe: bool = False) -> TrainingData:
    """Open the images specified by ``cfg.DATA`` and set up the views required by ``cfg.METHOD``.

    Args:
        cfg: config of the run.
        resuming: whether the run resumes in ``cfg.OUTPUT_DIR``. If so, images keep the indices of the original run.
        allow_pipe: whether ``DATA.SHARDS`` may contain commands, which run in a shell; see `ShardIndex`.

    Raises:
        FileNotFoundError, ValueError: there are too few images or none, the labels do not match the images, or the run
            is too short for its method. These errors are raised before anything is cached.
    """
    make, method = build_views(cfg), METHODS[cfg.METHOD]
    batch, seed = cfg.SOLVER.IMS_PER_BATCH, cfg.SEED
    if cfg.DATA.SHARDS:
        stream = ShardSampler(cfg.DATA.SHARDS, batch, seed, cfg.DATA.SHUFFLE_BUFFER, allow_pipe=allow_pipe)
        method.check_length(cfg, max_iterations(cfg, stream.iterations_per_epoch))
        encoded = ShardImages()
        encoded.max_pixels = cfg.DATA.MAX_PIXELS
        dataset = ReplacingViews(encoded, make, seed, method.views)
        return TrainingData(dataset=dataset, sampler=stream, size=stream.dataset_size)
    exclusion = read_exclusion(cfg.DATA.EXCLUDE, cfg.DATA.ROOT, cfg.OUTPUT_DIR, resuming=resuming)
    if method.classifies:
        images, labels, classes = open_labelled(cfg.DATA.ROOT, cfg.DATA.ANNOTATIONS, exclusion)
    else:
        images, labels, classes = ImageFolder(cfg.DATA.ROOT, exclusion), None, []
    warn_of_passed_over(images, cfg.DATA.ROOT)
    if listed := len(exclusion.out | exclusion.since):
        since = f"; {len(images.left_out)} were excluded after the run began and are replaced by other images"
        logger.info(f"excluded files: {listed} listed, {images.excluded} left out{since if images.left_out else ''}")
        if not images.excluded and not resuming:
            logger.warning(
                f"DATA.EXCLUDE {cfg.DATA.EXCLUDE} lists {listed} files, but none of them exists in {cfg.DATA.ROOT}:"
                f" {first_few(sorted(exclusion.out))}; expected paths relative to DATA.ROOT or absolute paths, unless"
                " these files have been removed"
            )
    images.max_pixels = cfg.DATA.MAX_PIXELS
    sampler = EpochSampler(len(images), batch, seed, identity=identify(images.paths, cfg.DATA.ROOT, labels))
    method.check_length(cfg, max_iterations(cfg, sampler.iterations_per_epoch))
    found: Images = images
    side = 0
    if cfg.DATA.CACHE != "none":
        side = cfg.DATA.CACHE_SIDE or 2 * cfg.AUGMENTATION.CROP_SIZE
        found = cache_images(images, cfg.DATA.CACHE, cfg.DATA.CACHE_DIR, side, cfg.DATA.NUM_WORKERS)
    size = len(images)
    dataset = ReplacingViews(
        found, make, seed, method.views, labels, cache_side=side, size=size, left_out=images.left_out
    )
    return TrainingData(dataset=dataset, sampler=sampler, size=size, classes=tuple(classes), exclusion=exclusion)


def build_views(cfg: CfgNode) -> ViewMaker:
    """Return the `ViewMaker` for ``cfg.AUGMENTATION`` that runs where ``cfg.DATA.AUGMENT`` specifies."""
    recipe = find_recipe(cfg.AUGMENTATION.NAME)._replace(blur_sigma=cfg.AUGMENTATION.BLUR_SIGMA)
    size, scale = cfg.AUGMENTATION.CROP_SIZE, cfg.AUGMENTATION.MIN_SCALE
    augment = choose_augment(cfg)
    if augment == "pil":
        return PillowViews(build_view(recipe, size, scale))
    return {"cpu": OpenCVViews, "device": DeviceViews}[augment](recipe, size, scale)


def choose_augment(cfg: CfgNode) -> str:
    """Return ``DATA.AUGMENT``, with ``"auto"`` resolved to ``"device"`` on CUDA and to ``"cpu"`` elsewhere."""
    if cfg.DATA.AUGMENT != "auto":
        return cfg.DATA.AUGMENT
    return "device" if resolve_device(cfg).type == "cuda" else "cpu"


def identify(paths: Sequence[str], root: str, labels: torch.Tensor | None) -> str:
    """Return a 128-bit hexadecimal hash of the files (relative to ``root``), their order, and their classes."""
    folder = str(Path(root))
    names = "\0".join(path.removeprefix(folder) for path in paths)
    found = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    if labels is not None:
        found.update(labels.numpy().tobytes())
    return found.hexdigest()[:32]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD for all trainable parameters; as in the original code, weight decay applies to every parameter."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )

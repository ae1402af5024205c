"""Top-1 and top-5 accuracy of the network in training, on a validation split (appendix: iNaturalist, ImageNet)."""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from PIL import Image
from torch import nn

from mocodet.common.files import atomic_open

from ..data.folders import warn_of_passed_over
from ..data.labelled import LabelledImages, open_labelled, require_same_classes
from ..data.loader import load_batches
from ..data.views import normalize
from .features import CentreCrops, exact_convolutions, share_buffers

logger = logging.getLogger("mocodet.pretrain")


def classification_accuracy(
    network: nn.Module,
    images: Sequence[Image.Image],
    labels: torch.Tensor,
    *,
    crop_size: int,
    batch_size: int,
    num_workers: int = 0,
) -> dict[str, float]:
    """Classify the central crop of every image, in evaluation mode and float32 (on CUDA without TF32).

    The processes divide the images between them, and all must call. They look with the main process's batch-norm
    statistics, which are those of the checkpoint. No random number is drawn.

    Args:
        network: images, N x 3 x H x W, to logits, N x C; in the mode that it was in when this returns.
        images: RGB images. labels: their classes, int64, N.
        crop_size: side of the crop, in pixels.
        batch_size: images at a time, in each process.
        num_workers: loader processes of each process.

    Returns:
        ``"top1"`` and ``"top5"``, in percent: how many images have their class as the highest logit and among the five
        highest (with fewer than five classes, all are).

    Raises:
        ValueError: an image cannot be read.
        FloatingPointError: a logit is not finite.
    """
    places = range(comm.get_rank(), len(images), comm.get_world_size())
    batches = load_batches(CentreCrops(images, labels, crop_size, places), num_workers, batch_size=batch_size)
    share_buffers(network)
    training = network.training
    network.eval()
    try:
        with exact_convolutions():
            counts = _count_right(network, batches)
    finally:
        network.train(training)
    top1, top5, seen = (sum(column) for column in zip(*comm.all_gather(counts), strict=True))
    if seen != len(images):
        raise RuntimeError(f"{seen} of {len(images)} validation images were evaluated")
    return {"top1": 100 * top1 / seen, "top5": 100 * top5 / seen}


@torch.no_grad()
def _count_right(network: nn.Module, batches: Iterator[list[torch.Tensor]]) -> tuple[int, int, int]:
    """Return how many images are right among the highest logit and the highest five, and how many there are."""
    device = next(network.parameters()).device
    top1 = torch.zeros((), dtype=torch.int64, device=device)
    top5 = top1.clone()
    seen = 0
    for images, labels in batches:
        logits = network(normalize(images.to(device)))  # N x C
        if not logits.isfinite().all():
            raise FloatingPointError("the network's logits on validation images are not finite: training diverged")
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # N x 5, in falling order
        right = best == labels.to(device)[:, None]
        top1 += right[:, 0].sum()
        top5 += right.any(dim=1).sum()
        seen += len(labels)
    return int(top1), int(top5), seen


def open_validation(cfg: CfgNode, classes: Sequence[str] | None = None) -> LabelledImages:
    """Open the validation split of ``cfg.DATA``, whose classes must be ``classes``, where given.

    Raises:
        FileNotFoundError, ValueError: see `open_labelled` and `require_same_classes`.
    """
    split = open_labelled(cfg.DATA.VAL_ROOT, cfg.DATA.VAL_ANNOTATIONS)
    if classes is not None:
        require_same_classes(classes, split.classes)
    warn_of_passed_over(split.images, split_name(cfg))
    return split


def split_name(cfg: CfgNode) -> str:
    """Return what results call the validation split: its JSON file, or its folder."""
    return cfg.DATA.VAL_ANNOTATIONS or cfg.DATA.VAL_ROOT


def write_results(output_dir: str | os.PathLike, split: str, results: dict[str, float]) -> None:
    """Write ``{split: {"classification": {metric: value}}}``, the layout of detection's, to ``results.json``."""
    with atomic_open(Path(output_dir, "results.json"), "w") as handle:
        json.dump({split: {"classification": results}}, handle, indent=2)
        handle.write("\n")


class ClassificationEvaluator(HookBase):
    """Logs ``top1`` and ``top5`` of the network in training, in percent, and keeps the latest in ``results.json``.

    Training goes on as if it had not looked: the evaluator changes no weight and draws no random number. It must come
    before the writers.

    Args:
        network: what is trained, not wrapped; images to logits.
        images: RGB images of the validation split. labels: their classes, int64, N.
        split: what the results call it.
        crop_size: side of the central crop, in pixels.
        batch_size: images at a time, in each process.
        num_workers: loader processes of each process.
        period: iterations between two evaluations, one epoch; there is one after the last iteration as well.
        output_dir: where ``results.json`` goes.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Sequence[Image.Image],
        labels: torch.Tensor,
        *,
        split: str,
        crop_size: int,
        batch_size: int,
        num_workers: int,
        period: int,
        output_dir: str,
    ) -> None:
        self.network = network
        self.images = images
        self.labels = labels
        self.split = split
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.period = period
        self.output_dir = output_dir

    @classmethod
    def from_config(
        cls, cfg: CfgNode, network: nn.Module, split: LabelledImages, period: int
    ) -> "ClassificationEvaluator":
        """Make the hook that a config asks for.

        Args:
            cfg: of the run.
            network: see the class.
            split: what `open_validation` returned.
            period: iterations of an epoch.
        """
        return cls(
            network,
            split.images,
            split.labels,
            split=split_name(cfg),
            crop_size=cfg.AUGMENTATION.CROP_SIZE,
            batch_size=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()),
            num_workers=cfg.DATA.NUM_WORKERS,
            period=period,
            output_dir=cfg.OUTPUT_DIR,
        )

    def after_step(self) -> None:
        """Evaluate after each epoch and after the last iteration."""
        done = self.trainer.iter + 1
        if done % self.period and done != self.trainer.max_iter:
            return
        results = self.evaluate(done)
        self.trainer.storage.put_scalars(smoothing_hint=False, top1=results["top1"], top5=results["top5"])

    def evaluate(self, iterations: int) -> dict[str, float]:
        """Evaluate the network as it is after so many ``iterations``; log and write the results. All must call."""
        began = time.perf_counter()
        found = classification_accuracy(
            self.network,
            self.images,
            self.labels,
            crop_size=self.crop_size,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        if comm.is_main_process():
            write_results(self.output_dir, self.split, {**found, "images": len(self.images), "iterations": iterations})
        logger.info(
            f"{self.split} after {iterations} iterations: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of"
            f" {len(self.images)} images, in {time.perf_counter() - began:.1f} s"
        )
        return found

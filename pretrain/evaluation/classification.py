"""Validation accuracy (top-1 and top-5) of the network during training (appendix: iNaturalist, ImageNet)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.files import write_json

from ..data.folders import LabelledImages, warn_of_passed_over
from ..data.labelled import check_same_classes, open_labelled
from ..data.views import normalize
from .accuracy import Evaluator, count_right, percent
from .features import FeatureSettings, central_crops, exact_convolutions, share_buffers


@torch.no_grad()
def classification_accuracy(network: nn.Module, data: LabelledImages, settings: FeatureSettings) -> dict[str, float]:
    """Classify the central crop of every image in evaluation mode and in float32 (on CUDA, without TF32).

    The images are distributed over all processes, each of which must call this function. All processes use the
    batch-norm statistics of the main process, which are those saved in checkpoints. No random numbers are used.

    Args:
        network: maps images, N x 3 x H x W, to logits, N x C. Its mode is restored afterwards.
        data: labelled images.
        settings: crop size and device, and the number of loader processes and the batch size of each process.

    Returns:
        ``"top1"`` and ``"top5"`` in percent; see `count_right`.

    Raises:
        ValueError: an image cannot be read.
        FloatingPointError: a logit is not finite.
    """
    places = range(comm.get_rank(), len(data.labels), comm.get_world_size())
    right = torch.zeros(2, dtype=torch.int64, device=settings.device)
    share_buffers(network)
    training = network.training
    network.eval()
    try:
        with exact_convolutions():
            for images, labels in central_crops(data, settings, places):
                logits = network(normalize(images))  # N x C
                if not logits.isfinite().all():
                    raise FloatingPointError(
                        "the network's logits on the validation images are not finite: training diverged"
                    )
                right += count_right(logits, labels)
    finally:
        network.train(training)
    return percent(sum(comm.all_gather(right.cpu())), len(data.labels))


def open_validation(cfg: CfgNode, classes: Sequence[str] | None = None) -> LabelledImages:
    """Open the validation split of ``cfg.DATA`` and check that its classes are ``classes``, if given.

    Raises:
        FileNotFoundError, ValueError: see `open_labelled` and `check_same_classes`.
    """
    split = open_labelled(cfg.DATA.VAL_ROOT, cfg.DATA.VAL_ANNOTATIONS)
    if classes is not None:
        check_same_classes(classes, split.classes)
    warn_of_passed_over(split.images, split_name(cfg))
    split.images.max_pixels = cfg.DATA.MAX_PIXELS
    return split


def split_name(cfg: CfgNode) -> str:
    """Return the name of the validation split used in results: the path of its JSON file or its folder."""
    return cfg.DATA.VAL_ANNOTATIONS or cfg.DATA.VAL_ROOT


class ClassificationEvaluator(Evaluator):
    """Logs ``top1`` and ``top5`` of the current network in percent, and saves the latest to ``results.json``.

    Args:
        cfg: config of the run.
        network: the network being trained, unwrapped and on its final device; maps images to logits.
        data: the result of `open_validation`.
        period: number of iterations between evaluations, typically one epoch. The last iteration is also evaluated.
    """

    def __init__(self, cfg: CfgNode, network: nn.Module, data: LabelledImages, period: int) -> None:
        self.network = network
        self.data = data
        self.settings = FeatureSettings(
            size=cfg.AUGMENTATION.CROP_SIZE,
            batch_size=max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()),
            device=next(network.parameters()).device,
            num_workers=cfg.DATA.NUM_WORKERS,
        )
        self.period = period
        self.what = split_name(cfg)
        self.images = len(data.labels)
        self.results = Path(cfg.OUTPUT_DIR, "results.json")

    def measure(self) -> dict[str, float]:
        """See `Evaluator.measure`."""
        return classification_accuracy(self.network, self.data, self.settings)

    def evaluate(self, iterations: int) -> dict[str, float]:
        """Measure after the given number of iterations, then log and save the result. All processes must call this."""
        found = super().evaluate(iterations)
        if comm.is_main_process():
            scores = {**found, "images": self.images, "iterations": iterations}
            write_json(self.results, {self.what: {"classification": scores}})  # same layout as detection results
        return found

"""Top-1 and top-5 accuracy of the network in training, on a validation split (appendix: iNaturalist, ImageNet)."""

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
    """Classify the central crop of every image, in evaluation mode and float32 (on CUDA without TF32).

    The processes divide the images between them, and all must call it. They use the main process's batch-norm
    statistics, which are those of the checkpoint. No random numbers are drawn.

    Args:
        network: images, N x 3 x H x W, to logits, N x C; its mode is restored at the end.
        data: labelled images.
        settings: size of the crops, device, and loader processes and batch size of each process.

    Returns:
        ``"top1"`` and ``"top5"``, in percent; see `count_right`.

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
                        "the network's logits on validation images are not finite: training diverged"
                    )
                right += count_right(logits, labels)
    finally:
        network.train(training)
    return percent(sum(comm.all_gather(right.cpu())), len(data.labels))


def open_validation(cfg: CfgNode, classes: Sequence[str] | None = None) -> LabelledImages:
    """Open the validation split of ``cfg.DATA``; its classes must be ``classes``, if given.

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
    """Return the name of the validation split in results: its JSON file, or its folder."""
    return cfg.DATA.VAL_ANNOTATIONS or cfg.DATA.VAL_ROOT


class ClassificationEvaluator(Evaluator):
    """Logs ``top1`` and ``top5`` of the network in training, in percent, and keeps the latest in ``results.json``.

    Args:
        cfg: config of the run.
        network: the network in training, not wrapped, on its final device; images to logits.
        data: the result of `open_validation`.
        period: iterations between two evaluations, one epoch; the last iteration is followed by one too.
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
        """Measure after the given number of iterations; log and write the result. All processes must call it."""
        found = super().evaluate(iterations)
        if comm.is_main_process():
            scores = {**found, "images": self.images, "iterations": iterations}
            write_json(self.results, {self.what: {"classification": scores}})  # the layout of detection's results
        return found

"""Parts common to evaluations: counting correct predictions, and periodic measurement during training."""

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence

import torch
from detectron2.engine import HookBase

logger = logging.getLogger("mocodet.pretrain")


def count_right(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the number of rows whose class has the highest score, and one of the five highest: 2 x ..., int64.

    On ties, the class with the smaller index ranks higher. With fewer than five classes, all rows count as correct in
    the second number.

    Args:
        scores: of C classes, N x ... x C, finite.
        labels: N, int64, in [0, C).
    """
    own = labels.view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)  # N x ... x 1
    score = scores.gather(-1, own)
    smaller = torch.arange(scores.shape[-1], device=scores.device) < own
    rank = ((scores > score) | ((scores == score) & smaller)).sum(dim=-1)  # 0 is the highest
    return torch.stack([rank < 1, rank < 5]).sum(dim=1)


def percent(right: Sequence[int], images: int) -> dict[str, float]:
    """Return ``"top1"`` and ``"top5"``, in percent, from the counts of `count_right` over ``images``."""
    return {name: 100 * int(count) / images for name, count in zip(("top1", "top5"), right, strict=True)}


class Evaluator(HookBase):
    """Measures top-1 and top-5 accuracy every ``period`` iterations of a training and after the last, and logs them.

    Evaluation does not affect training: a subclass must not change weights or draw random numbers. The hook must come
    before the writers.

    Attributes:
        period: iterations between two evaluations.
        what: name of the measurement, for the log.
        images: number of classified images.
        prefix: prefix of the names ``top1`` and ``top5`` in the training's storage.
    """

    period: int
    what: str
    images: int
    prefix: str = ""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return ``"top1"`` and ``"top5"``, in percent. All processes must call it."""

    def evaluate(self, iterations: int) -> dict[str, float]:
        """Measure after the given number of iterations and log the result. All processes must call it."""
        began = time.perf_counter()
        found = self.measure()
        logger.info(
            f"{self.what} after {iterations} iterations: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of"
            f" {self.images} images, in {time.perf_counter() - began:.1f} s"
        )
        return found

    def is_due(self) -> bool:
        """Return whether the current iteration of the trainer ends with an evaluation."""
        done = self.trainer.iter + 1
        return done % self.period == 0 or done == self.trainer.max_iter

    def after_step(self) -> None:
        """Evaluate after each period and after the last iteration."""
        if self.is_due():
            found = self.evaluate(self.trainer.iter + 1)
            scores = {f"{self.prefix}{name}": found[name] for name in ("top1", "top5")}
            self.trainer.storage.put_scalars(smoothing_hint=False, **scores)

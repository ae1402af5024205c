"""Shared parts of the evaluations: counting correct predictions, and evaluating periodically during training."""

import logging
import time
from abc import abstractmethod
from collections.abc import Sequence

import torch
from detectron2.engine import HookBase

logger = logging.getLogger("mocodet.pretrain")


def count_right(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Count the rows whose label has the highest score, and those whose label is in the top five: 2 x ..., int64.

    Ties are broken in favour of the class with the smaller index. With fewer than five classes, every row counts as
    correct in the top-five count.

    Args:
        scores: scores of C classes, N x ... x C, finite.
        labels: labels, N, int64, in [0, C).
    """
    own = labels.view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)  # N x ... x 1
    score = scores.gather(-1, own)
    smaller = torch.arange(scores.shape[-1], device=scores.device) < own
    rank = ((scores > score) | ((scores == score) & smaller)).sum(dim=-1)  # 0 is the highest score
    return torch.stack([rank < 1, rank < 5]).sum(dim=1)


def percent(right: Sequence[int], images: int) -> dict[str, float]:
    """Return ``"top1"`` and ``"top5"`` in percent, from the counts that `count_right` returns for ``images`` images."""
    return {name: 100 * int(count) / images for name, count in zip(("top1", "top5"), right, strict=True)}


class Evaluator(HookBase):
    """Measures and logs top-1 and top-5 accuracy every ``period`` training iterations and after the last one.

    Evaluation does not affect training: subclasses must not change weights or use the random generators. Register the
    hook before the writers.

    Attributes:
        period: number of iterations between evaluations.
        what: name of the measurement in the log.
        images: number of images to classify.
        prefix: prefix of the names ``top1`` and ``top5`` in the trainer's storage.
    """

    period: int
    what: str
    images: int
    prefix: str = ""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return ``"top1"`` and ``"top5"`` in percent. All processes must call this method."""

    def evaluate(self, iterations: int) -> dict[str, float]:
        """Measure after the given number of iterations and log the result. All processes must call this method."""
        began = time.perf_counter()
        found = self.measure()
        logger.info(
            f"{self.what} after {iterations} iterations: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of"
            f" {self.images} images, in {time.perf_counter() - began:.1f} s"
        )
        return found

    def is_due(self) -> bool:
        """Return whether an evaluation follows the trainer's current iteration."""
        done = self.trainer.iter + 1
        return done % self.period == 0 or done == self.trainer.max_iter

    def after_step(self) -> None:
        """Evaluate after each period and after the last iteration."""
        if self.is_due():
            found = self.evaluate(self.trainer.iter + 1)
            scores = {f"{self.prefix}{name}": found[name] for name in ("top1", "top5")}
            self.trainer.storage.put_scalars(smoothing_hint=False, **scores)

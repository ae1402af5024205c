"""Linear classification on frozen features (section 4.1), with multiple classifiers trained in a single pass."""

import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mocodet.common.checkpoint import errors_about, load_torch_file
from mocodet.common.files import atomic_open
from mocodet.common.nested import look_up
from mocodet.common.progress import QUIET, duration
from mocodet.common.states import EXPECTED, take_up

from ..data.augment.pillow import PillowViews, build_view
from ..data.augment.recipes import RECIPES
from ..data.folders import LabelledImages
from ..data.views import Views, mix
from .accuracy import count_right, percent
from .features import FeatureSettings, cached_features, listing_digest, load_crops, pooled_features, state_digest

logger = logging.getLogger("mocodet.pretrain")

# Values of the published protocol: standard deviation of the initial weights, and smallest area of a random crop.
WEIGHT_STD = 0.01
MIN_SCALE = 0.08


@dataclass(frozen=True)
class Protocol:
    """Training settings of a linear classifier. The defaults are those of the published protocol.

    Attributes:
        epochs: number of passes over the training images.
        batch_size: number of images per batch. The last batch of an epoch may be smaller.
        momentum: momentum of SGD.
        steps: epochs, in increasing order, at the start of which the learning rate is multiplied by ``gamma``.
        seed: seed for the initial weights, the image order, crops and flips.

    Raises:
        ValueError: the steps are not in increasing order, or one of them has no effect.
    """

    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    steps: tuple[int, ...] = (60, 80)
    gamma: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)) or not all(0 < step < self.epochs for step in self.steps):
            shown = ", ".join(map(str, self.steps))
            raise ValueError(f"steps are {shown}; expected epochs from 1 to {self.epochs - 1} in increasing order")

    def decay(self, epoch: int) -> float:
        """Return the learning-rate factor in ``epoch`` (from 0)."""
        return self.gamma ** sum(step <= epoch for step in self.steps)

    def batches(self, images: int, epoch: int) -> list[torch.Tensor]:
        """Return the image indices of each batch of ``epoch``, in an order that depends only on the seed and epoch."""
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return list(torch.randperm(images, generator=generator).split(self.batch_size))


class LinearSweep:
    """G linear classifiers that are trained together on the same batches.

    Each classifier has its own learning rate and weight decay. All start from the same weights. Each one obtains the
    same result (up to rounding) as if it were trained separately, because its gradients only come from its own loss.

    Attributes:
        losses: mean cross-entropy of each classifier over its last epoch: G, on the CPU.

    Args:
        grid: learning rate (without scaling) and weight decay of each classifier.
        dim: D, the dimension of the features.
        classes: C, the number of classes.
        protocol: see `Protocol`.
        device: the training device.

    Raises:
        ValueError: ``grid`` is empty, a learning rate is not positive, or a weight decay is negative.
    """

    def __init__(
        self,
        grid: Sequence[tuple[float, float]],
        dim: int,
        classes: int,
        protocol: Protocol,
        device: torch.device | str = "cpu",
    ) -> None:
        if not grid:
            raise ValueError("no classifiers to train: specify at least one learning rate and weight decay")
        for lr, wd in grid:
            if not (lr > 0 and wd >= 0):
                raise ValueError(
                    f"learning rate {lr:g} and weight decay {wd:g}; expected a positive rate and a non-negative decay"
                )
        self.grid = list(grid)
        self.protocol = protocol
        self.losses = torch.full((len(grid),), torch.nan)
        generator = torch.Generator().manual_seed(protocol.seed)
        first = torch.empty(classes, dim).normal_(0, WEIGHT_STD, generator=generator).to(device)
        self.weights = [first.clone().requires_grad_() for _ in grid]  # each C x D
        self.biases = [torch.zeros(classes, device=device, requires_grad=True) for _ in grid]
        self.optimizer = torch.optim.SGD(
            [
                {"params": [weight, bias], "lr": lr, "weight_decay": wd}
                for weight, bias, (lr, wd) in zip(self.weights, self.biases, grid, strict=True)
            ],
            momentum=protocol.momentum,
        )

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, N x G x C, of features (N x D, float32)."""
        return F.linear(features, torch.cat(self.weights), torch.cat(self.biases)).unflatten(1, (len(self.grid), -1))

    def step(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Update every classifier once and return the mean cross-entropies (G) before the update."""
        logits = self.logits(features)
        truth = labels[:, None].expand(logits.shape[:2])  # N x G
        losses = F.cross_entropy(logits.movedim(2, 1), truth, reduction="none").mean(dim=0)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()

    def epochs(
        self, batches: Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]], start: int = 0
    ) -> Iterator[int]:
        """Train from epoch ``start`` to the end. After each epoch, yield the number of completed epochs.

        Args:
            batches: yields the features (N x D, float32) and labels (N) of an epoch, on the device of the classifiers.
        """
        for epoch in range(start, self.protocol.epochs):
            for group, (lr, _) in zip(self.optimizer.param_groups, self.grid, strict=True):
                group["lr"] = lr * self.protocol.decay(epoch)
            total, seen = torch.zeros(len(self.grid), device=self.weights[0].device), 0
            for features, labels in batches(epoch):
                total += self.step(features, labels) * len(labels)
                seen += len(labels)
            self.losses = (total / seen).cpu()
            yield epoch + 1

    @torch.no_grad()
    def accuracy(
        self, features: torch.Tensor, labels: torch.Tensor, chunk: int = 1024
    ) -> list[dict[str, float] | None]:
        """Return ``"top1"`` and ``"top5"`` of each classifier in percent, or None for classifiers that have diverged.

        Args:
            features: M x D.
            labels: M, int64.
            chunk: number of rows to classify at once.
        """
        device = self.weights[0].device
        right = torch.zeros(2, len(self.grid), dtype=torch.int64, device=device)
        finite = torch.ones(len(self.grid), dtype=torch.bool, device=device)
        for rows, truth in zip(features.split(chunk), labels.split(chunk), strict=True):
            logits = self.logits(rows.to(device).float())  # m x G x C
            finite &= logits.isfinite().all(dim=2).all(dim=0)
            right += count_right(logits, truth.to(device))
        scores = zip(right.T.tolist(), finite.tolist(), strict=True)
        return [percent(counts, len(labels)) if good else None for counts, good in scores]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the losses and the optimizer state."""
        return {
            "weights": [weight.detach() for weight in self.weights],
            "biases": [bias.detach() for bias in self.biases],
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned for a sweep with the same grid.

        Raises:
            ValueError: see `take_up`.
        """
        for mine, found in zip(self.weights + self.biases, state["weights"] + state["biases"], strict=True):
            mine.copy_(found)
        take_up("optimizer", self.optimizer, state["optimizer"], finite=False)  # some classifiers may have diverged
        self.losses = state["losses"]


def stored_batches(
    features: torch.Tensor, labels: torch.Tensor, protocol: Protocol, device: torch.device | str, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of precomputed features (N x D); see `LinearSweep.epochs`."""
    for places in protocol.batches(len(labels), epoch):
        yield features[places].to(device).float(), labels[places].to(device)


def augmented_batches(
    backbone: nn.Module, data: LabelledImages, protocol: Protocol, settings: FeatureSettings, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of features of random crops and flips, recomputed by the frozen backbone in each epoch.

    The crop and flip of an image depend on the seed, the epoch and its position in the epoch; see `Views`.

    Args:
        backbone: a network on ``settings.device`` in evaluation mode whose ``fc`` is the identity.
    """
    view = build_view(RECIPES["supervised"], settings.size, MIN_SCALE)
    views = Views(data.images, PillowViews(view), protocol.seed, names=("image",), labels=data.labels)
    draw = itertools.count(epoch * len(data.labels))
    batches = protocol.batches(len(data.labels), epoch)
    order = [[(place, next(draw)) for place in places.tolist()] for places in batches]
    for images, labels in load_crops(views, order, settings, f"epoch {epoch + 1} of {protocol.epochs}, batch"):
        yield pooled_features(backbone, images, settings.dtype), labels


def published_steps(epochs: int) -> tuple[int, ...]:
    """Return the epochs at which the learning rate drops: 60 and 80 for 100 epochs, scaled for other lengths.

    With fewer than four epochs, steps that coincide or lie beyond the last epoch are omitted.
    """
    return tuple(sorted({step for step in (round(0.6 * epochs), round(0.8 * epochs)) if 0 < step < epochs}))


def evaluate_linear(
    backbone: nn.Module,
    train: LabelledImages,
    val: LabelledImages,
    settings: FeatureSettings,
    protocol: Protocol,
    grid: Sequence[tuple[float, float]],
    *,
    cached: bool = False,
    cache: str | os.PathLike | None = None,
    state: str | os.PathLike | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Train a linear classifier for each pair in ``grid`` on frozen features, then classify the validation split.

    Args:
        backbone: a network on ``settings.device`` in evaluation mode whose ``fc`` is the identity.
        train, val: training and validation split, with the same classes.
        settings: settings for computing features.
        protocol: settings for training classifiers.
        grid: learning rate and weight decay of each classifier.
        cached: whether to compute the training features once, without augmentation.
        cache: folder for cached features; see `cached_features`.
        state: file in which the training state is saved after each epoch.
        resume: whether to continue from ``state`` if it exists.

    Returns:
        a dict for each pair in ``grid``, with ``"lr"``, ``"wd"``, ``"train_loss"`` (mean of the last epoch), ``"top1"``
        and ``"top5"`` (in percent), and ``"best"``, which is true for the highest top-1 accuracy. The loss and the
        accuracies are None if training diverged.

    Raises:
        ValueError: ``state`` belongs to a different training; see also `LinearSweep` and `extract_features`.
        FileExistsError: ``state`` exists, but ``resume`` is false.
        FloatingPointError: all classifiers diverged.
        RuntimeError: the backbone was modified.
    """
    begun = Path(state) if state is not None and Path(state).exists() else None
    if begun and not resume:
        raise FileExistsError(
            f"{state} already contains a training state; continue it with --resume, or choose another --state"
        )
    before = state_digest(backbone)
    val_features = cached_features(backbone, val, settings, cache)
    if cached:
        features = cached_features(backbone, train, settings, cache)
        batches = partial(stored_batches, features, train.labels, protocol, settings.device)
    else:
        batches = partial(augmented_batches, backbone, train, protocol, settings)
    sweep = LinearSweep(grid, val_features.shape[1], len(train.classes), protocol, settings.device)
    # Compared with the contents of a file, which contains lists instead of tuples.
    identity = {
        "backbone": before,
        "images": listing_digest(train) if state is not None else "",
        "mode": "cached" if cached else "augmented",
        "size": settings.size,
        "precision": str(settings.dtype),
        "storage": str(settings.storage),
        "grid": [list(pair) for pair in grid],
        "protocol": {**asdict(protocol), "steps": list(protocol.steps)},
    }
    start = _resume(sweep, begun, identity) if begun else 0
    began = told = time.perf_counter()
    for done in sweep.epochs(batches, start):
        now = time.perf_counter()
        if done == protocol.epochs or now - told >= QUIET:
            told = now
            losses = ", ".join(f"{loss:.4f}" for loss in sweep.losses.tolist())
            left = (now - began) / (done - start) * (protocol.epochs - done)
            logger.info(
                f"epoch {done}/{protocol.epochs}  loss {losses}  {now - began:.0f} s"
                + (f", about {duration(left)} left" if left else "")
            )
        if state is not None:
            with atomic_open(state) as handle:
                torch.save({"epoch": done, "identity": identity, "sweep": sweep.state_dict()}, handle)
    found = sweep.accuracy(val_features, val.labels)
    if (after := state_digest(backbone)) != before:
        raise RuntimeError(f"the backbone changed during linear training: SHA-256 {before} before, {after} after")
    return _ranked(grid, sweep.losses.tolist(), found)


def _ranked(
    grid: Sequence[tuple[float, float]], losses: Sequence[float], found: Sequence[Mapping[str, float] | None]
) -> list[dict[str, Any]]:
    """Build the results returned by `evaluate_linear`."""
    results: list[dict[str, Any]] = []
    for (lr, wd), loss, row in zip(grid, losses, found, strict=True):
        diverged = {"train_loss": None, "top1": None, "top5": None}
        scores = {"train_loss": loss, **row} if row and math.isfinite(loss) else diverged
        results.append({"lr": lr, "wd": wd, **scores, "best": False})
    best = max((row for row in results if row["top1"] is not None), key=lambda row: row["top1"], default=None)
    if best is None:
        rates = ", ".join(f"{lr:g}" for lr, _ in grid)
        raise FloatingPointError(f"all classifiers diverged (learning rates {rates}); use lower learning rates")
    best["best"] = True
    return results


def _resume(sweep: LinearSweep, path: Path, identity: Mapping[str, Any]) -> int:
    """Restore ``sweep`` from the state of a training with the same ``identity``; return the number of completed epochs.

    Raises:
        ValueError: the state belongs to a different training, or contains invalid entries.
    """
    state = load_torch_file(path)
    found = {key: (look_up(state, f"identity.{key}"), mine) for key, mine in _flat(identity).items()}
    if other := {key: pair for key, pair in found.items() if not _same(*pair)}:
        told = [f"{key} {' '.join(brief(there).split())}, not {mine!r}" for key, (there, mine) in other.items()]
        raise ValueError(f"{path} belongs to a different training: {'; '.join(told)}; remove the file to start again")
    with errors_about(path):
        if type(state.get("epoch")) is not int or not 0 <= state["epoch"] <= sweep.protocol.epochs:
            raise ValueError(f"number of completed epochs (of {sweep.protocol.epochs}) not recorded; {EXPECTED}")
        take_up("sweep", sweep, state.get("sweep"))
    return state["epoch"]


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the protocol with its entries, so that messages name the ones that differ."""
    flat = {**identity, **{f"protocol.{key}": value for key, value in identity["protocol"].items()}}
    del flat["protocol"]
    return flat


def _same(found: Any, mine: Any) -> bool:
    """Return whether a file contains the same strings and numbers. Tensors, which compare differently, are rejected."""
    if isinstance(mine, list):
        return isinstance(found, list) and len(found) == len(mine) and all(map(_same, found, mine))
    return isinstance(found, str | int | float) and found == mine

"""Detects signs that a run is not learning and logs a warning for each, with the settings to change."""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from detectron2.engine import HookBase
from fvcore.common.config import CfgNode

from mocodet.common.encoders.find import ABOVE_CHANCE, COLLAPSE, CONSTANT_IMAGES, OLD_KEYS, PLACES
from mocodet.common.encoders.reading import ABOUT_SIGNS

from .methods import METHODS
from .methods.base import DataFacts

logger = logging.getLogger("mocodet.pretrain")

QUEUE_SIZE, NEGATIVES, BANK = "CONTRAST.QUEUE_SIZE", "CONTRAST.DENSE_NEGATIVES", "CONTRAST.BANK_MOMENTUM"

LONG_QUEUE = "queue longer than the data"

# Minimum number of log writes over which medians are computed, because the values of a single batch vary too much.
LOOKS = 5

# One 8-bit level is 1/255, and normalisation divides it by about 0.226. Images with a smaller standard deviation are
# practically constant. Photographs of Imagenette have about 0.8.
CONSTANT = 1 / 255 / 0.226

# Threshold for `spread`. With random weights, it starts at 0.3 to 0.5 on photographs (ResNet-18 and -50, 48 and 96
# pixels). It falls while the queue still contains noise: to between 0.06 and 0.14 in runs that learn later, and to
# 0.001 in a run that collapsed (learning rate 1).
COLLAPSED = 0.005

# If the keys in the queue are like those of the batch, a query finds its key at least as often among the fewer keys of
# the batch. With outdated keys (m 0, K 4096, N 64), the accuracy was 0.3 to 0.6 in the queue but only 3 times chance in
# the batch, for 160 iterations after the queue was full. Runs that learn reach 0.4 in the queue, for 40 iterations.
HIGH = 0.3
NEAR_CHANCE = 5  # multiple of the chance level. Encoders with random weights reach 1 to 6 times chance (N 32 and 64)
FEWER = 4  # minimum ratio of the accuracy in the queue to that in the batch

# With crops of 96 pixels (3 x 3 cells) and pooled negatives, almost all cells were matched at the same place, and found
# their match with an accuracy near 100 % within 40 iterations, by their place alone (docs/lab/dense_places.md).
MOST = 0.8

# Ratio of the loss to its chance level. It stayed below 1 in all runs that learned, and above 1.05 for 780 iterations
# in runs of the memory bank that did not exceed random weights (docs/lab/bank_ages.md).
TOO_HIGH = 1.05


@dataclass(frozen=True)
class Sign:
    """A sign that a run is not learning.

    Attributes:
        name: name of the sign.
        shows: whether the medians of the logged values show the sign, given the chance levels.
        iterations: number of iterations over which the sign must persist. A run that learns may show it for a while.
        remedy: explanation of the sign and the settings to change.
        needs_keys: whether the sign is only valid once the queue contains no more noise.
        valid_from: returns the first iteration at which a run with this config can show the sign, or infinity.
        passes: whether a run that no longer shows the sign has learned after all, so that the sign is forgotten.
    """

    name: str
    shows: Callable[[Mapping[str, float], Mapping[str, float]], bool]
    iterations: int
    remedy: str
    needs_keys: bool = True
    valid_from: Callable[[CfgNode], float] = lambda cfg: 0
    passes: bool = False


def _constant_images(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return seen["image_std"] < CONSTANT


def _collapse(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return seen.get("spread", math.inf) < COLLAPSED


def _old_keys(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    if not {"accuracy", "accuracy_in_batch"} <= seen.keys() or "accuracy_in_batch" not in chance:
        return False
    accuracy, in_batch = seen["accuracy"], seen["accuracy_in_batch"]
    if chance.get("accuracy", 0) > chance["accuracy_in_batch"]:
        return False  # the queue has fewer keys than the batch
    return accuracy >= HIGH and in_batch <= min(NEAR_CHANCE * chance["accuracy_in_batch"], accuracy / FEWER)


def _places(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return min(seen.get("accuracy_dense", 0), seen.get("same_place", 0)) >= MOST


def _above_chance(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return seen.get("loss", 0) > TOO_HIGH * chance.get("loss", math.inf)


def _contrast_from(cfg: CfgNode) -> float:
    """Return the iteration from which a run contrasts queries with keys: never if it learns to classify."""
    return math.inf if METHODS[cfg.METHOD].classifies else 0


def _images_from(cfg: CfgNode) -> float:
    """Return the iteration from which a run learns to distinguish images: never if it only learns from cells."""
    return math.inf if NEGATIVES in METHODS[cfg.METHOD].keys and cfg.CONTRAST.DENSE_WEIGHT == 1 else 0


def _pooled_from(cfg: CfgNode) -> float:
    """Return the iteration from which a run learns to distinguish cells from means of cells."""
    contrasts_cells = NEGATIVES in METHODS[cfg.METHOD].keys and cfg.CONTRAST.DENSE_WEIGHT > 0
    if not contrasts_cells or cfg.CONTRAST.DENSE_NEGATIVES != "pooled":
        return math.inf
    return cfg.CONTRAST.DENSE_WARMUP_ITERS


# The signs are ordered by cause: an encoder maps constant images to the same vector, and equal vectors of the same age
# cannot be distinguished. A sign is only reported if the run shows none of those before it.
SIGNS = (
    Sign(
        CONSTANT_IMAGES,
        _constant_images,
        0,
        "every image has a single colour, which leaves nothing to learn. Check how the loader reads the files of"
        " DATA.ROOT: they are converted to 8 bits per channel, which turns some 16-bit images and masks black or white",
        needs_keys=False,
    ),
    Sign(
        COLLAPSE,
        _collapse,
        100,
        "the encoder returns the same vector for every image. Check that the images differ, lower SOLVER.BASE_LR or"
        " raise SOLVER.WARMUP_ITERS, and start again",
    ),
    Sign(
        OLD_KEYS,
        _old_keys,
        200,
        "queries find their key in the queue but not in their batch, which means that they recognise it by its age and"
        f" learn nothing else. Raise CONTRAST.MOMENTUM, lower {QUEUE_SIZE} to a few batches, or lower SOLVER.BASE_LR",
        valid_from=_images_from,
    ),
    Sign(
        PLACES,
        _places,
        100,
        "cells find their match by its place in the grid, not by its content, so the dense loss teaches nothing about"
        f" images. Set {NEGATIVES} cells and start again, or use larger crops, whose grids have more cells",
        valid_from=_pooled_from,
    ),
    Sign(
        ABOVE_CHANCE,
        _above_chance,
        100,
        "queries are less similar to their keys than to other keys, so the run has learned nothing so far. Lower"
        " SOLVER.BASE_LR. With METHOD memory_bank, the cause may be the noise in the bank: set MODEL.WEIGHTS, which"
        " also fills the bank before the first iteration, or train for many more epochs",
        valid_from=_contrast_from,
        passes=True,
    ),
)


def image_std(images: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation within an image, averaged over all channels of N x 3 x H x W normalised images."""
    return images.float().std(dim=(2, 3), correction=0).mean()


class SignRecord:
    """The names of the signs that a run has already warned about, stored as ``told`` in its checkpoints.

    A resumed run does not repeat these warnings, and the converter reports them together with the weights. They are
    kept separately from `SignWatch` because all processes load a checkpoint, but only the main process watches.
    """

    def __init__(self) -> None:
        self.told: set[str] = set()

    def state_dict(self) -> dict[str, list[str]]:
        """Return the names in sorted order."""
        return {"told": sorted(self.told)}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        """Restore the result of `state_dict`."""
        self.told = set(state["told"])


class SignWatch(HookBase):
    """Checks the logged values and warns about each sign once. It never reads values from a device.

    It runs in the main process, where values are averaged over all processes. It runs before the checkpoint hook, so
    that each checkpoint includes the signs found in its own iteration.

    Args:
        cfg: config of the run.
        data: the training data.
        chance: see `Method.chance`.
        record: the signs that the run has already warned about.
    """

    def __init__(self, cfg: CfgNode, data: DataFacts, chance: Mapping[str, float], record: SignRecord) -> None:
        self.chance, self.record = chance, record
        self.images, self.batch = data.size, cfg.SOLVER.IMS_PER_BATCH
        self.valid_from = {sign.name: sign.valid_from(cfg) for sign in SIGNS}
        keys = METHODS[cfg.METHOD].keys
        self.queue_size = cfg.CONTRAST.QUEUE_SIZE if QUEUE_SIZE in keys else 0
        # One pass through the queue replaces the initial noise, and a second one the keys learned against that noise.
        # An epoch updates each entry of a bank once.
        self.settled = math.ceil((self.images if BANK in keys else 2 * self.queue_size) / self.batch)
        # Number of completed iterations, and the values of the last one.
        self.seen: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=max(LOOKS, *(s.iterations for s in SIGNS)))

    def before_train(self) -> None:
        """Warn if the queue is longer than the data set."""
        room = self.images - self.batch
        if self.queue_size > room:
            half, own = max(1, self.images // 2), math.ceil(self.queue_size / self.images)
            remedy = f"Lower {QUEUE_SIZE} to at most {room}"
            if room < self.batch:
                remedy = f"Lower SOLVER.IMS_PER_BATCH to at most {half}, and {QUEUE_SIZE} to the same number"
            self._warn(
                LONG_QUEUE,
                f"{QUEUE_SIZE} {self.queue_size} and a batch of {self.batch} together exceed the {self.images} images:"
                f" the negatives of a query include up to {own} keys of its own image. {remedy}. With a queue of a"
                " tenth of the images, 1 query in 200 has its own image among the negatives; with nine tenths, 2 in 5",
            )

    def after_step(self) -> None:
        """Check the values if the log is written after this iteration."""
        if not self.trainer.writes_log():
            return
        storage, done = self.trainer.storage, self.trainer.iter + 1
        self.seen.append((done, {name: value for name, (value, at) in storage.latest().items() if at == storage.iter}))
        for sign in SIGNS:
            medians = self._medians(sign, done)
            if medians and sign.shows(medians, self.chance):
                self._warn(sign.name, f"{sign.remedy} ({ABOUT_SIGNS})")
                return
            if medians and sign.passes:
                self.record.told.discard(sign.name)

    def _warn(self, name: str, remedy: str) -> None:
        """Warn about a sign, unless this run or the run that it resumes has already done so."""
        if name not in self.record.told:
            self.record.told.add(name)
            logger.warning(f"{name}: {remedy}")

    def _medians(self, sign: Sign, done: int) -> dict[str, float]:
        """Return the medians of the values used to detect a sign, or an empty dict if there are too few values."""
        settled = self.settled if sign.needs_keys else 0
        begin = max(self.trainer.start_iter, settled, self.valid_from[sign.name])
        looks = [values for at, values in self.seen if at > begin]
        if len(looks) < LOOKS or done - begin < sign.iterations:
            return {}
        looks = looks[-max(LOOKS, sum(at > done - sign.iterations for at, _ in self.seen)) :]
        return {name: median(look[name] for look in looks) for name in set.intersection(*map(set, looks))}

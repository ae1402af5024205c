"""Signs that a run does not learn: a warning names each once, with the settings to change."""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from detectron2.engine import HookBase
from fvcore.common.config import CfgNode

from mocodet.common.encoders.find import COLLAPSE, CONSTANT_IMAGES, OLD_KEYS
from mocodet.common.encoders.reading import ABOUT_SIGNS

from .methods import METHODS
from .methods.base import DataFacts

logger = logging.getLogger("mocodet.pretrain")

QUEUE_SIZE = "CONTRAST.QUEUE_SIZE"

LONG_QUEUE = "queue longer than the data"

# Least number of log writes whose medians are judged: a single batch may have any value.
LOOKS = 5

# A grey level is 1/255, and normalisation divides by about 0.226. Images with a smaller standard deviation than that
# show nothing; Imagenette's photographs have 0.8.
CONSTANT = 1 / 255 / 0.226

# Of `spread`. Random weights begin at 0.3 to 0.5 on photographs (ResNet-18 and -50, 48 and 96 pixels). While the queue
# is noise it falls: to between 0.06 and 0.14 in runs that learn later, and to 0.001 in one that collapsed (rate 1).
COLLAPSED = 0.005

# If the keys of the queue are like those of a batch, a query finds its own at least as often among the fewer keys of
# the batch. With old keys (m 0, K 4096, N 64) the accuracy was 0.3 to 0.6 in the queue, but only 3 times chance in the
# batch, for 160 iterations after the queue was full. Runs that learn reach 0.4 in the queue, for 40 iterations.
HIGH = 0.3
NEAR_CHANCE = 5  # times the chance level; encoders of random weights have 1 to 6 times, with N of 32 and 64
FEWER = 4  # times


@dataclass(frozen=True)
class Sign:
    """A sign that a run does not learn.

    Attributes:
        name: name of the sign.
        shows: whether it shows in the medians of the logged values, given the chance levels.
        iterations: number of iterations over which it must show; a run that learns may show it for a while.
        remedy: its meaning, and the settings to change.
        needs_keys: whether it counts only once the queue holds no noise.
    """

    name: str
    shows: Callable[[Mapping[str, float], Mapping[str, float]], bool]
    iterations: int
    remedy: str
    needs_keys: bool = True


def _constant_images(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return seen["image_std"] < CONSTANT


def _collapse(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    return seen.get("spread", math.inf) < COLLAPSED


def _old_keys(seen: Mapping[str, float], chance: Mapping[str, float]) -> bool:
    if not {"accuracy", "accuracy_in_batch"} <= seen.keys() or "accuracy_in_batch" not in chance:
        return False
    accuracy, in_batch = seen["accuracy"], seen["accuracy_in_batch"]
    return accuracy >= HIGH and in_batch <= min(NEAR_CHANCE * chance["accuracy_in_batch"], accuracy / FEWER)


# The first that shows is the cause of the later ones: an encoder maps constant images to one vector, and equal vectors
# of one age cannot be distinguished.
SIGNS = (
    Sign(
        CONSTANT_IMAGES,
        _constant_images,
        0,
        "every image is of one colour, so there is nothing to learn. Look at the files of DATA.ROOT as the loader sees"
        " them, 8 bits a channel: 16-bit images and masks come out black or white",
        needs_keys=False,
    ),
    Sign(
        COLLAPSE,
        _collapse,
        100,
        "the encoder gives every image the same vector. Check that the images differ, lower SOLVER.BASE_LR or raise"
        " SOLVER.WARMUP_ITERS, and start again",
    ),
    Sign(
        OLD_KEYS,
        _old_keys,
        200,
        "queries find their key in the queue but not in their batch, so they recognise it by its age and learn nothing"
        f" else. Raise CONTRAST.MOMENTUM, lower {QUEUE_SIZE} to a few batches, or lower SOLVER.BASE_LR",
    ),
)


def image_std(images: torch.Tensor) -> torch.Tensor:
    """Return the mean standard deviation of a channel within an image, for normalised images, N x 3 x H x W."""
    return images.float().std(dim=(2, 3), correction=0).mean()


class SignRecord:
    """The names of the signs that a run has warned of, ``told``; a part of its checkpoints.

    A resumed run does not warn of them again, and the converter reports them with the weights. They are not the state
    of `SignWatch`, because all processes load a checkpoint, but only one watches.
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
    """Checks the logged values when the log is written, and warns of each sign once; it reads nothing from a device.

    It runs in the main process, where values are means over all processes, and before the hook that writes checkpoints,
    so that a sign is in the checkpoint of its iteration.

    Args:
        cfg: config of the run.
        data: the data that the run learns from.
        chance: see `Method.chance`.
        record: the signs that the run has warned of.
    """

    def __init__(self, cfg: CfgNode, data: DataFacts, chance: Mapping[str, float], record: SignRecord) -> None:
        self.chance, self.record = chance, record
        self.images, self.batch = data.size, cfg.SOLVER.IMS_PER_BATCH
        self.queue_size = cfg.CONTRAST.QUEUE_SIZE if QUEUE_SIZE in METHODS[cfg.METHOD].keys else 0
        # One turn of the queue replaces the initial noise, and another the keys that were learned against noise.
        self.settled = 2 * math.ceil(self.queue_size / self.batch)
        # Iterations done, and the values of the last one.
        self.seen: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=max(LOOKS, *(s.iterations for s in SIGNS)))

    def before_train(self) -> None:
        """Warn of a queue that is longer than the data set."""
        room = self.images - self.batch
        if self.queue_size > room:
            self._warn(
                LONG_QUEUE,
                f"{QUEUE_SIZE} {self.queue_size} and a batch of {self.batch} are more than"
                f" the {self.images} images: a query's negatives include up to"
                f" {math.ceil(self.queue_size / self.images)} keys of its own image. Lower {QUEUE_SIZE} to at most"
                f" {max(1, room)}; at a tenth of the images one query in 200 meets its own image",
            )

    def after_step(self) -> None:
        """Check the values when the log is written."""
        if not self.trainer.writes_log():
            return
        storage, done = self.trainer.storage, self.trainer.iter + 1
        self.seen.append((done, {name: value for name, (value, at) in storage.latest().items() if at == storage.iter}))
        for sign in SIGNS:
            medians = self._medians(sign, done)
            if medians and sign.shows(medians, self.chance):
                self._warn(sign.name, f"{sign.remedy} ({ABOUT_SIGNS})")
                return

    def _warn(self, name: str, remedy: str) -> None:
        """Warn of a sign, unless this run, or the run that it resumes, has already done so."""
        if name not in self.record.told:
            self.record.told.add(name)
            logger.warning(f"{name}: {remedy}")

    def _medians(self, sign: Sign, done: int) -> dict[str, float]:
        """Return the medians of the values for judging a sign; none while there are too few values."""
        begin = max(self.trainer.start_iter, self.settled if sign.needs_keys else 0)
        looks = [values for at, values in self.seen if at > begin]
        if len(looks) < LOOKS or done - begin < sign.iterations:
            return {}
        looks = looks[-max(LOOKS, sum(at > done - sign.iterations for at, _ in self.seen)) :]
        return {name: median(look[name] for look in looks) for name in set.intersection(*map(set, looks))}

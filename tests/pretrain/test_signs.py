"""Each sign that a run does not learn, provoked by a short training, and its warning."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import TrainerBase
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.methods import DenseContrast, MemoryBank, MomentumContrast
from mocodet.pretrain.methods.base import DataFacts
from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d
from mocodet.pretrain.methods.heads import build_dense_head
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.signs import (
    SignRecord,
    SignWatch,
    _above_chance,
    _contrast_from,
    _images_from,
    _old_keys,
    _places,
    _pooled_from,
    image_std,
)
from tests.pretrain.methods.small import DIM, encoder_with_maps, small_encoder

BATCH, IMAGES, STORED = 8, 4096, 256


def small_method(cfg: CfgNode) -> MomentumContrast | MemoryBank:
    """A method with a small encoder; that of dense contrast has two padded convolutions and maps of 3 x 3 cells."""
    options = {
        "queue_size": cfg.CONTRAST.QUEUE_SIZE,
        "momentum": cfg.CONTRAST.MOMENTUM,
        "dim": DIM,
        "temperature": 0.2,
    }
    if cfg.METHOD == "memory_bank":
        negatives = cfg.CONTRAST.NUM_NEGATIVES
        return MemoryBank(small_encoder(2), dataset_size=STORED, num_negatives=negatives, dim=DIM, seed=0)
    if cfg.METHOD == "moco":
        return MomentumContrast(small_encoder(2), BatchShuffle(0), **options)
    torch.manual_seed(0)
    width = 16
    padded = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        GroupedBatchNorm2d(width, 2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        GroupedBatchNorm2d(width, 2),
        nn.ReLU(),
    )
    encoder = encoder_with_maps(padded, width)
    head = build_dense_head(width, DIM)
    negatives = cfg.CONTRAST.DENSE_NEGATIVES
    return DenseContrast(encoder, BatchShuffle(0), dense_head=head, dense_negatives=negatives, **options)


class Trainer(TrainerBase):
    """Trains a small method on generated images, and logs like a run on CUDA."""

    def __init__(self, cfg: CfgNode, rate: float, decay: float, noise: float, contents: float) -> None:
        super().__init__()
        self.method = small_method(cfg)
        trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, rate, 0.9, weight_decay=decay)
        self.generator = torch.Generator().manual_seed(0)
        # Images with less contents are brighter, so that their border, next to the black padding, is more visible.
        self.images = contents * torch.randn(STORED, 3, 6, 6, generator=self.generator) + (1 - contents)
        self.noise = noise
        facts = DataFacts(size=STORED if cfg.METHOD == "memory_bank" else IMAGES)
        self.register_hooks([SignWatch(cfg, facts, type(self.method).chance(cfg, facts), SignRecord())])

    def run_step(self) -> None:
        chosen = torch.randint(STORED, (BATCH,), generator=self.generator)
        images = self.images[chosen]
        noise = self.noise * torch.randn(2, *images.shape, generator=self.generator)
        outputs = self.method({"query": images + noise[0], "key": images + noise[1], "index": chosen})
        self.optimizer.zero_grad()
        outputs["loss"].backward()
        self.optimizer.step()
        if self.writes_log():
            values = {name: value.item() for name, value in outputs.items()}
            self.storage.put_scalars(**values, image_std=image_std(images).item())

    def writes_log(self) -> bool:
        return (self.iter + 1) % 4 == 0


def warnings_of(
    caplog,
    steps: int,
    queue_size: int,
    momentum: float,
    rate: float,
    decay: float = 0.0,
    noise: float = 0.3,
    contents: float = 1.0,
    method: str = "moco",
    negatives: str = "pooled",
) -> list[str]:
    cfg = get_cfg()
    cfg.CONTRAST.QUEUE_SIZE, cfg.CONTRAST.MOMENTUM, cfg.SOLVER.IMS_PER_BATCH = queue_size, momentum, BATCH
    cfg.METHOD, cfg.CONTRAST.DENSE_NEGATIVES, cfg.CONTRAST.NUM_NEGATIVES = method, negatives, queue_size
    with caplog.at_level(logging.WARNING, "mocodet.pretrain"):
        Trainer(cfg, rate, decay, noise, contents).train(0, steps)
    return [record.message for record in caplog.records if record.name == "mocodet.pretrain"]


def test_healthy__nothing_is_said(caplog):
    assert warnings_of(caplog, 300, queue_size=64, momentum=0.99, rate=0.03) == []


def test_old_keys__a_fast_encoder_and_a_long_queue(caplog):
    (told,) = warnings_of(caplog, 464, queue_size=1024, momentum=0.5, rate=0.03, noise=2.0)
    assert told.startswith("old keys: queries find their key in the queue but not in their batch")
    assert re.search(r"Raise CONTRAST\.MOMENTUM, lower CONTRAST\.QUEUE_SIZE .*, or lower SOLVER\.BASE_LR", told)


def test_old_keys__not_judged_by_one_accuracy_alone():
    """As for a METHOD of a user."""
    chance = {"accuracy_in_batch": 0.1}
    assert _old_keys({"accuracy": 0.9, "accuracy_in_batch": 0.1}, chance)
    assert not _old_keys({"accuracy_in_batch": 0.1}, chance)
    assert not _old_keys({"accuracy": 0.9}, chance)
    assert not _old_keys({"accuracy": 0.9, "accuracy_in_batch": 0.1}, {})
    assert _old_keys({"accuracy": 0.9, "accuracy_in_batch": 0.1}, {**chance, "accuracy": 0.1})
    assert not _old_keys({"accuracy": 0.9, "accuracy_in_batch": 0.1}, {**chance, "accuracy": 0.2}), "K below N"


def test_collapse__weights_that_decay_to_nothing(caplog):
    (told,) = warnings_of(caplog, 150, queue_size=64, momentum=0.99, rate=0.1, decay=3.0)
    assert told.startswith("collapse: the encoder returns the same vector for every image")
    assert "lower SOLVER.BASE_LR" in told


def test_places__cells_known_by_the_padding(caplog):
    run = {"queue_size": 64, "momentum": 0.99, "rate": 0.03, "contents": 0.2, "noise": 0.3, "method": "dense"}
    assert warnings_of(caplog, 200, negatives="cells", **run) == []
    (told,) = warnings_of(caplog, 200, negatives="pooled", **run)
    assert told.startswith("places of cells: cells find their match by its place in the grid, not by its content")
    assert "Set CONTRAST.DENSE_NEGATIVES cells and start again, or use larger crops" in told


def test_above_chance__a_bank_of_noise(caplog):
    (told,) = warnings_of(caplog, 160, queue_size=64, momentum=0.0, rate=0.03, method="memory_bank")
    assert told.startswith("loss above chance: queries are less similar to their keys than to other keys")
    assert "set MODEL.WEIGHTS, which also fills the bank before the first iteration" in told


def test_above_chance__is_forgotten_once_the_run_learns():
    cfg = get_cfg()
    cfg.METHOD, cfg.SOLVER.IMS_PER_BATCH = "memory_bank", BATCH
    watch = SignWatch(cfg, DataFacts(size=STORED), {"loss": 4.0}, record := SignRecord())
    losses = {}
    watch.trainer = SimpleNamespace(start_iter=0, writes_log=lambda: True)
    watch.trainer.storage = SimpleNamespace(latest=lambda: losses)
    for iteration in range(700):
        watch.trainer.iter = watch.trainer.storage.iter = iteration
        losses.update(loss=(5.0 if iteration < 300 else 3.0, iteration), image_std=(1.0, iteration))
        watch.after_step()
        if iteration == 299:
            assert record.told == {"loss above chance"}
    assert record.told == set()


def test_above_chance__not_of_classification():
    cfg = get_cfg()
    for method, expected in (("supervised", np.inf), ("memory_bank", 0), ("moco", 0)):
        cfg.METHOD = method
        assert _contrast_from(cfg) == expected


def test_above_chance__needs_a_chance_level():
    """As for a METHOD of a user."""
    assert _above_chance({"loss": 4.3}, {"loss": 4.0})
    assert not _above_chance({"loss": 4.1}, {"loss": 4.0})
    assert not _above_chance({"loss": 9.9}, {})
    assert not _above_chance({}, {"loss": 4.0})


def test_images__are_not_judged_if_a_run_learns_only_from_cells():
    cfg = get_cfg()
    for method, weight, expected in (("dense", 1.0, np.inf), ("dense", 0.5, 0), ("moco", 1.0, 0)):
        cfg.METHOD, cfg.CONTRAST.DENSE_WEIGHT = method, weight
        assert _images_from(cfg) == expected


def test_places__need_both_values():
    assert _places({"accuracy_dense": 0.9, "same_place": 0.9}, {})
    for other in ({"accuracy_dense": 0.9, "same_place": 0.4}, {"accuracy_dense": 0.2, "same_place": 0.9}):
        assert not _places(other, {})
    assert not _places({"accuracy_dense": 0.9}, {})
    assert not _places({"same_place": 0.9}, {})


def test_places__only_while_cells_are_contrasted_with_means():
    cfg = get_cfg()
    cfg.merge_from_list(["METHOD", "dense", "CONTRAST.DENSE_WARMUP_ITERS", 7])
    assert _pooled_from(cfg) == 7
    for key, value in (("METHOD", "moco"), ("CONTRAST.DENSE_WEIGHT", 0.0), ("CONTRAST.DENSE_NEGATIVES", "cells")):
        other = cfg.clone()
        other.merge_from_list([key, value])
        assert _pooled_from(other) == np.inf


def test_signs__nothing_is_said_before_a_run_can_tell(caplog):
    """The queue holds noise until 128 iterations are done, and a collapse must last for 100."""
    assert warnings_of(caplog, 227, queue_size=512, momentum=0.99, rate=0.1, decay=3.0) == []


def test_queue__at_most_the_images_less_a_batch(caplog):
    assert warnings_of(caplog, 0, queue_size=IMAGES - BATCH, momentum=0.9, rate=0.1) == []
    (told,) = warnings_of(caplog, 0, queue_size=IMAGES - BATCH + 1, momentum=0.9, rate=0.1)
    assert told.startswith("queue longer than the data: CONTRAST.QUEUE_SIZE 4089 and a batch of 8 together exceed")
    assert "Lower CONTRAST.QUEUE_SIZE to at most 4088. With a queue of a tenth of the images" in told


def test_queue__a_batch_of_most_images(caplog):
    cfg = get_cfg()
    cfg.CONTRAST.QUEUE_SIZE, cfg.SOLVER.IMS_PER_BATCH = 64, 256
    watch = SignWatch(cfg, DataFacts(size=300), {}, SignRecord())
    with caplog.at_level(logging.WARNING, "mocodet.pretrain"):
        watch.before_train()
    assert "Lower SOLVER.IMS_PER_BATCH to at most 150, and CONTRAST.QUEUE_SIZE to the same number" in caplog.text


def test_image_std__of_each_channel_within_each_image():
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    images[1] = [[[1]], [[2]], [[3]]]  # one colour
    expected = np.mean([np.std(channel) for image in images for channel in image])
    assert image_std(torch.tensor(images)).item() == pytest.approx(expected)

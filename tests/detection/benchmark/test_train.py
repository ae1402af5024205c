"""Steps of fine-tuning, compared with those of plain detectron2."""

import argparse

import torch

from mocodet.common.benchmark.alternate import Seconds
from mocodet.detection.benchmark import train
from mocodet.detection.benchmark.train import REFERENCE, measure
from tests.benchmarks import run_once


def test_measure__all_start_from_the_same_weights(monkeypatch):
    run_once(monkeypatch, train)
    run = train.alternate

    def compare_first(steps: dict, *args: object, **how: object) -> Seconds:
        plain, *ours = steps.values()
        theirs = plain.model.state_dict()
        for step in ours:
            mine = step.__self__.model.state_dict()
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], value) for name, value in theirs.items())
        return run(steps, *args, **how)

    monkeypatch.setattr(train, "alternate", compare_first)
    monkeypatch.setattr(train, "DETECTORS", (("Faster R-CNN, toy", "toy_R_18_FPN_random.yaml", "coco"),))
    (rows,) = measure(argparse.Namespace(size=64, batch=2, regions=4, pairs=1, device="cpu"))
    assert [row.contestant for row in rows] == [REFERENCE, "mocodet, float32", "mocodet, bfloat16"]
    assert rows[0].name == "fine-tuning step, Faster R-CNN, toy, 64 px, batch 2, 4 regions"

"""A stand-in for detectron2's DensePose project, which the tests cannot install: its keys, and what it is asked for.

The keys are those of ``densepose/config.py`` that a chart-based config may set.
"""

import importlib.machinery
import sys
from types import ModuleType

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog


def add_densepose_config(cfg: CfgNode) -> None:
    cfg.MODEL.DENSEPOSE_ON = True
    cfg.MODEL.ROI_DENSEPOSE_HEAD = CfgNode(
        {
            "NAME": "",
            "NUM_STACKED_CONVS": 8,
            "NUM_PATCHES": 24,
            "POOLER_TYPE": "ROIAlignV2",
            "POOLER_RESOLUTION": 28,
            "POOLER_SAMPLING_RATIO": 2,
            "NUM_COARSE_SEGM_CHANNELS": 2,
        }
    )


class Trainer:
    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> tuple:
        return "train loader", cfg

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> tuple:
        return "test loader", cfg, dataset_name

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> tuple:
        return "evaluator", cfg, dataset_name, output_folder


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import densepose`` find the stand-in for the rest of the test; its data sets stay registered."""
    for name in ("densepose_coco_2014_train", "densepose_coco_2014_valminusminival", "densepose_coco_2014_minival"):
        if name not in DatasetCatalog.list():
            DatasetCatalog.register(name, list)
    package, engine = ModuleType("densepose"), ModuleType("densepose.engine")
    package.__spec__ = importlib.machinery.ModuleSpec("densepose", None)
    package.add_densepose_config = add_densepose_config
    engine.Trainer = Trainer
    monkeypatch.setitem(sys.modules, "densepose", package)
    monkeypatch.setitem(sys.modules, "densepose.engine", engine)

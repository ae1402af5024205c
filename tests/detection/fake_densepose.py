"""A stand-in for detectron2's DensePose project, which the tests cannot install: its keys, and what it is asked for.

The keys are those of ``densepose/config.py`` that a chart-based config may set.
"""

import importlib.machinery
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


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


@dataclass
class CocoDatasetInfo:
    name: str
    images_root: str
    annotations_fpath: str


DATASETS = [
    CocoDatasetInfo(
        f"densepose_coco_2014_{split}",
        f"coco/{'train' if split == 'train' else 'val'}2014",
        f"coco/annotations/densepose_{split}2014.json",
    )
    for split in ("train", "valminusminival", "minival")
]


def register_dataset(dataset_data: CocoDatasetInfo, datasets_root: str | None = None) -> None:
    DatasetCatalog.register(dataset_data.name, list)
    root = Path(datasets_root or "")
    MetadataCatalog.get(dataset_data.name).set(
        json_file=str(root / dataset_data.annotations_fpath), image_root=str(root / dataset_data.images_root)
    )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import densepose`` find the stand-in for the rest of the test; its data sets stay registered."""
    for dataset in DATASETS:
        if dataset.name not in DatasetCatalog.list():
            register_dataset(dataset, "datasets")
    modules = {name: ModuleType(name) for name in ("densepose", "densepose.engine", "densepose.data.datasets.coco")}
    package, engine, coco = modules.values()
    package.__spec__ = importlib.machinery.ModuleSpec("densepose", None)
    package.__path__ = []
    package.add_densepose_config = add_densepose_config
    engine.Trainer = Trainer
    coco.DATASETS, coco.register_dataset = DATASETS, register_dataset
    parents = {name: ModuleType(name) for name in ("densepose.data", "densepose.data.datasets")}
    for name, module in (modules | parents).items():
        monkeypatch.setitem(sys.modules, name, module)

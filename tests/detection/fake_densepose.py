"""A stand-in for detectron2's DensePose project, which the tests cannot install: its keys and the functions used.

The keys are those of ``densepose/config.py`` that a chart-based config may set.
"""

import importlib.machinery
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

ADDRESS = "https://dl.fbaipublicfiles.com/densepose/data"


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
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluators:
        return DatasetEvaluators([Evaluator({"densepose_gps": {"AP": 12.5, "APl": -100.0}}, output_folder)])


class Evaluator(DatasetEvaluator):
    def __init__(self, results: dict[str, dict[str, float]], output_folder: str | None) -> None:
        self.results, self.output_folder = results, output_folder

    def evaluate(self) -> dict[str, dict[str, float]]:
        return self.results


class DensePoseCocoEval:
    """Looks distances up as the project does: in the given integer type."""

    def getDistancesUV(self, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
        high, low = (np.maximum(truth, found) - 1), (np.minimum(truth, found) - 1)
        return np.array([self.Pdist_matrix[int(place)][0] for place in high * (high - 1) // 2 + low])


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
        json_file=str(root / dataset_data.annotations_fpath),
        image_root=str(root / dataset_data.images_root),
        densepose_transform_src=f"{ADDRESS}/UV_symmetry_transforms.mat",
        densepose_smpl_subdiv=f"{ADDRESS}/SMPL_subdiv.mat",
        densepose_smpl_subdiv_transform=f"{ADDRESS}/SMPL_SUBDIV_TRANSFORM.mat",
    )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import densepose`` find the stand-in for the rest of the test; its data sets stay registered."""
    for dataset in DATASETS:
        if dataset.name not in DatasetCatalog.list():
            register_dataset(dataset, "datasets")
    names = ("", ".engine", ".data.datasets.coco", ".evaluation.densepose_coco_evaluation")
    modules = {name: ModuleType(name) for name in (f"densepose{name}" for name in names)}
    package, engine, coco, evaluation = modules.values()
    package.__spec__ = importlib.machinery.ModuleSpec("densepose", None)
    package.__path__ = []
    package.add_densepose_config = add_densepose_config
    engine.Trainer = Trainer
    coco.DATASETS, coco.register_dataset = DATASETS, register_dataset
    evaluation.DensePoseCocoEval = DensePoseCocoEval
    parents = {name: ModuleType(name) for name in ("densepose.data", "densepose.data.datasets", "densepose.evaluation")}
    for name, module in (modules | parents).items():
        monkeypatch.setitem(sys.modules, name, module)

"""DensePose R-CNN: keys, loaders and metrics come from detectron2's DensePose project, if that is installed."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.common import AspectRatioGroupedDataset
from torch.utils.data import DataLoader

from mocodet import configs
from mocodet.common.config.bases import read_settings

PROJECT = "densepose"
INSTALL = "pip install 'git+https://github.com/facebookresearch/detectron2@main#subdirectory=projects/DensePose'"
EVALUATOR_TYPE = "densepose"


def add_densepose_keys(cfg: CfgNode, config_file: str) -> None:
    """Add the DensePose project's keys to ``cfg`` (in place) if the config file, or a base of it, uses them.

    Importing the project also registers its models; its data sets are registered where ``DETECTRON2_DATASETS`` says.
    Call it before the file is merged.

    Args:
        cfg: detectron2's keys with those of this plugin.
        config_file: a path, or the name of one of mocodet's own configs.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the file needs the project, which is not installed; the message has the command that installs it.
    """
    if not uses_densepose(config_file):
        return
    if importlib.util.find_spec(PROJECT) is None:
        raise ValueError(
            f"{config_file} needs detectron2's DensePose project, which is not installed; install it:  {INSTALL}"
        )
    importlib.import_module(PROJECT).add_densepose_config(cfg)
    _register_datasets(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def uses_densepose(config_file: str | Path) -> bool:
    """Tell whether a config file, or a base of it, has keys of the DensePose project.

    Raises:
        OSError, ValueError: there is no such config, or see `read_settings`.
    """
    model = read_settings(configs.locate(str(config_file))).content.get("MODEL")
    return isinstance(model, Mapping) and "DENSEPOSE_ON" in model


def is_densepose(cfg: CfgNode) -> bool:
    """Tell whether ``cfg`` is of a DensePose model."""
    return bool(cfg.MODEL.get("DENSEPOSE_ON", False))


def trainer() -> Any:
    """Return its trainer, a class that builds its loaders, of images with points on persons, and evaluators."""
    return importlib.import_module(f"{PROJECT}.engine").Trainer


def training_data(cfg: CfgNode) -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return the records that its training loader draws from, and what maps one: the parts of detectron2's loader.

    Raises:
        ValueError: the loader is another, which yields images that a model has annotated.
    """
    loader = trainer().build_train_loader(cfg)
    if isinstance(loader, AspectRatioGroupedDataset):
        loader = loader.dataset
    if not isinstance(loader, DataLoader):
        raise ValueError("BOOTSTRAP_DATASETS is not supported: training on images that a model annotates; leave it out")
    drawn: Any = loader.dataset  # by a sampler
    images = drawn.dataset
    return list(images._dataset), images._map_func


def _register_datasets(root: str) -> None:
    """Register the project's data sets anew under ``root``: it looks for them in ``./datasets`` alone."""
    coco = importlib.import_module(f"{PROJECT}.data.datasets.coco")
    for dataset in coco.DATASETS:
        if dataset.name in DatasetCatalog.list():
            DatasetCatalog.remove(dataset.name)
            MetadataCatalog.remove(dataset.name)
        coco.register_dataset(dataset, root)
        # The project's trainer evaluates all its data sets alike, so they do not say how.
        MetadataCatalog.get(dataset.name).evaluator_type = EVALUATOR_TYPE

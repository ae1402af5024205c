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
from detectron2.utils.file_io import PathManager
from torch.utils.data import DataLoader

from mocodet import configs
from mocodet.common.config.bases import read_settings

PROJECT = "densepose"
COMMIT = "9ca668968de7f3230c67b1b572e594c0797eff30"  # of detectron2, with which it was run
# Without what it declares to need: that is a detectron2 of its own. Its setup.py imports torch.
INSTALL = (
    "pip install av setuptools wheel && pip install --no-deps --no-build-isolation"
    f" 'git+https://github.com/facebookresearch/detectron2@{COMMIT}#subdirectory=projects/DensePose'"
)
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
        ValueError: the file needs the project, which is not installed or lacks a package; the message has the command
            that installs both.
    """
    if not uses_densepose(config_file):
        return
    if importlib.util.find_spec(PROJECT) is None:
        raise ValueError(
            f"{config_file} needs detectron2's DensePose project, which is not installed; install it:  {INSTALL}"
        )
    try:
        importlib.import_module(PROJECT).add_densepose_config(cfg)
    except ImportError as error:
        raise ValueError(
            f"{config_file} needs detectron2's DensePose project, which cannot be imported ({error}); install it: "
            f" {INSTALL}"
        ) from error
    # As its train_net.py does: its evaluator asks for a file with a time limit, and detectron2 takes none.
    PathManager.set_strict_kwargs_checking(False)
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


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build its loader of every image to evaluate; by itself it would leave out images without a person.

    In the project's own minival each image has one, so the metrics are the project's there.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    return trainer().build_test_loader(cfg, dataset_name)


def records_of(dataset_name: str) -> list[dict[str, Any]]:
    """Return the records of one of its data sets whose loader has been built, with classes for the ids of the file."""
    classes = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = classes[annotation["category_id"]]
    return records


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

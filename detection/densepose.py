"""Support for DensePose R-CNN, with keys, loaders and metrics from detectron2's DensePose project, if installed."""

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
COMMIT = "9ca668968de7f3230c67b1b572e594c0797eff30"  # the detectron2 commit that mocodet was tested with
# Installed without its declared dependencies, because they include another copy of detectron2, and without build
# isolation, because its setup.py imports torch.
INSTALL = (
    "pip install av setuptools wheel && pip install --no-deps --no-build-isolation"
    f" 'git+https://github.com/facebookresearch/detectron2@{COMMIT}#subdirectory=projects/DensePose'"
)
EVALUATOR_TYPE = "densepose"


def add_densepose_keys(cfg: CfgNode, config_file: str) -> None:
    """Add the DensePose project's keys to ``cfg`` (in place) if the config file or one of its bases uses them.

    Importing the project also registers its models. Its data sets are registered under the folder in
    ``DETECTRON2_DATASETS``. Call this function before merging the config file.

    Args:
        cfg: a config with the keys of detectron2 and of this plugin.
        config_file: path of a config file, or the name of one of mocodet's own configs.

    Raises:
        FileNotFoundError: the config does not exist.
        ValueError: the config requires the project, but the project is not installed or lacks a package. The message
            includes the command that installs both.
    """
    if not uses_densepose(config_file):
        return
    if importlib.util.find_spec(PROJECT) is None:
        raise ValueError(
            f"{config_file} requires detectron2's DensePose project, which is not installed. Install it with:"
            f"  {INSTALL}"
        )
    try:
        importlib.import_module(PROJECT).add_densepose_config(cfg)
    except ImportError as error:
        raise ValueError(
            f"{config_file} requires detectron2's DensePose project, which cannot be imported ({error}). Install it"
            f" with:  {INSTALL}"
        ) from error
    # As in the project's train_net.py. The project's evaluator opens a file with a time limit, which detectron2
    # rejects.
    PathManager.set_strict_kwargs_checking(False)
    _register_datasets(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def uses_densepose(config_file: str | Path) -> bool:
    """Return whether a config file or one of its bases sets keys of the DensePose project.

    Raises:
        OSError, ValueError: the config does not exist, or see `read_settings`.
    """
    model = read_settings(configs.locate(str(config_file))).content.get("MODEL")
    return isinstance(model, Mapping) and "DENSEPOSE_ON" in model


def is_densepose(cfg: CfgNode) -> bool:
    """Return whether ``cfg`` configures a DensePose model."""
    return bool(cfg.MODEL.get("DENSEPOSE_ON", False))


def trainer() -> Any:
    """Return the project's trainer class, which builds the project's loaders and evaluators."""
    return importlib.import_module(f"{PROJECT}.engine").Trainer


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build the project's evaluation loader, including images without a person, which it skips by default.

    Every image in the project's own minival contains a person, so the metrics on minival equal the project's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    return trainer().build_test_loader(cfg, dataset_name)


def records_of(dataset_name: str) -> list[dict[str, Any]]:
    """Return a DensePose data set's records with class indices instead of file ids; its loader must have been built."""
    classes = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = classes[annotation["category_id"]]
    return records


def training_data(cfg: CfgNode) -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return the records and the mapper of the project's training loader, from which other loaders can be built.

    Raises:
        ValueError: the loader yields images annotated by a model, which is not supported.
    """
    loader = trainer().build_train_loader(cfg)
    if isinstance(loader, AspectRatioGroupedDataset):
        loader = loader.dataset
    if not isinstance(loader, DataLoader):
        raise ValueError(
            "BOOTSTRAP_DATASETS (training on images annotated by a model) is not supported; remove it from the config"
        )
    drawn: Any = loader.dataset  # the data set, wrapped with a sampler
    images = drawn.dataset
    return list(images._dataset), images._map_func


def _register_datasets(root: str) -> None:
    """Register the project's data sets again under ``root``, because the project only searches ``./datasets``."""
    coco = importlib.import_module(f"{PROJECT}.data.datasets.coco")
    for dataset in coco.DATASETS:
        if dataset.name in DatasetCatalog.list():
            DatasetCatalog.remove(dataset.name)
            MetadataCatalog.remove(dataset.name)
        coco.register_dataset(dataset, root)
        # The project's trainer evaluates all its data sets the same way, so their metadata does not set a type.
        MetadataCatalog.get(dataset.name).evaluator_type = EVALUATOR_TYPE

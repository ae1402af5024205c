"""DensePose R-CNN: keys, loaders and metrics come from detectron2's DensePose project, if it is installed."""

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
COMMIT = "9ca668968de7f3230c67b1b572e594c0797eff30"  # of detectron2; tested with it
# Without its declared dependencies, which include its own detectron2. Its setup.py imports torch.
INSTALL = (
    "pip install av setuptools wheel && pip install --no-deps --no-build-isolation"
    f" 'git+https://github.com/facebookresearch/detectron2@{COMMIT}#subdirectory=projects/DensePose'"
)
EVALUATOR_TYPE = "densepose"


def add_densepose_keys(cfg: CfgNode, config_file: str) -> None:
    """Add the DensePose project's keys to ``cfg`` (in place) if the config file, or a base of it, uses them.

    Importing the project also registers its models; its data sets are registered in the folder ``DETECTRON2_DATASETS``.
    Call this before the file is merged.

    Args:
        cfg: config with the keys of detectron2 and of this plugin.
        config_file: a path, or the name of one of mocodet's own configs.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the file needs the project, which is not installed or lacks a package; the message gives the command
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
    # As in its train_net.py: its evaluator passes a time limit for a file, which detectron2 does not accept.
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
    """Tell whether ``cfg`` is the config of a DensePose model."""
    return bool(cfg.MODEL.get("DENSEPOSE_ON", False))


def trainer() -> Any:
    """Return the project's trainer class, which builds its loaders and evaluators."""
    return importlib.import_module(f"{PROJECT}.engine").Trainer


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Build the project's loader for all images to evaluate; by default it leaves out images without a person.

    In the project's own minival every image has a person, so there the metrics equal the project's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    return trainer().build_test_loader(cfg, dataset_name)


def records_of(dataset_name: str) -> list[dict[str, Any]]:
    """Return the records of a DensePose data set whose loader was built, with classes instead of the file's ids."""
    classes = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = classes[annotation["category_id"]]
    return records


def training_data(cfg: CfgNode) -> tuple[list[dict[str, Any]], Callable[[dict[str, Any]], dict[str, Any]]]:
    """Return the records and the mapper of the project's training loader: the parts of detectron2's loader.

    Raises:
        ValueError: it is another loader, which yields images that a model has annotated.
    """
    loader = trainer().build_train_loader(cfg)
    if isinstance(loader, AspectRatioGroupedDataset):
        loader = loader.dataset
    if not isinstance(loader, DataLoader):
        raise ValueError(
            "BOOTSTRAP_DATASETS (training on images that a model annotates) is not supported; leave it out"
        )
    drawn: Any = loader.dataset  # a sampler draws from it
    images = drawn.dataset
    return list(images._dataset), images._map_func


def _register_datasets(root: str) -> None:
    """Register the project's data sets again under ``root``, since it only looks for them in ``./datasets``."""
    coco = importlib.import_module(f"{PROJECT}.data.datasets.coco")
    for dataset in coco.DATASETS:
        if dataset.name in DatasetCatalog.list():
            DatasetCatalog.remove(dataset.name)
            MetadataCatalog.remove(dataset.name)
        coco.register_dataset(dataset, root)
        # The project's trainer evaluates all its data sets in one way, so their metadata do not say how.
        MetadataCatalog.get(dataset.name).evaluator_type = EVALUATOR_TYPE

"""What a run needs of its data sets, checked before it starts rather than after hours of training."""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check that the data sets of ``cfg.DATASETS`` are there, hold something, and fit the model.

    Data sets from ``MOCO.DATASETS`` are read whole; for those that detectron2 brings, only their files are looked for.

    Args:
        cfg: the config of the run, its ``MOCO.DATASETS`` registered.
        training: check ``DATASETS.TRAIN`` too, not only ``DATASETS.TEST``.

    Raises:
        FileNotFoundError: files of a data set are missing.
        ValueError: no data set is named, a name is unknown, a data set is empty or malformed, the data sets disagree
            about their classes, or the model predicts another number of classes.
    """
    if training and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN names no data set to train on")
    if not training and not cfg.DATASETS.TEST:
        raise ValueError("--eval-only, but DATASETS.TEST names no data set to evaluate on")
    own = {entry["NAME"] for entry in cfg.MOCO.DATASETS}
    to_train = list(cfg.DATASETS.TRAIN) if training else []
    names = dict.fromkeys([*to_train, *cfg.DATASETS.TEST])
    _check_names_are_known(names, own)
    for name in names:
        if name not in own:
            _check_builtin_files(name)
            continue
        records = DatasetCatalog.get(name)
        if name in to_train:
            _check_trainable(cfg, name, records)
    _check_classes(cfg, names)


def _check_names_are_known(names: Sequence[str], own: set[str]) -> None:
    known = set(DatasetCatalog.list())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"DATASETS names {', '.join(unknown)}, which neither detectron2 nor MOCO.DATASETS defines; the latter has"
            f" {', '.join(sorted(own)) or 'no entry'}"
        )


def _check_builtin_files(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    wanted = [metadata.get(key) for key in ("json_file", "image_root", "dirname")]
    missing = [path for path in wanted if path and "://" not in path and not Path(path).exists()]
    if missing:
        datasets = os.environ.get("DETECTRON2_DATASETS", "unset, so ./datasets")
        raise FileNotFoundError(
            f"data set {name}: there is no {' and no '.join(missing)}; put it there, or set the environment variable"
            f" DETECTRON2_DATASETS (now {datasets}) to the folder that detectron2's data sets are in"
        )


def _check_trainable(cfg: CfgNode, name: str, records: list[dict]) -> None:
    annotations = [annotation for record in records for annotation in record["annotations"]]
    if not annotations:
        raise ValueError(f"data set {name}: none of its {len(records)} images has an annotation to train on")
    bare = sum("segmentation" not in annotation for annotation in annotations)
    if cfg.MODEL.MASK_ON and bare:
        raise ValueError(
            f"MODEL.MASK_ON, but {bare} of the {len(annotations)} annotations of data set {name} have no mask;"
            " set MODEL.MASK_ON False"
        )


def _check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    classes = {name: tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    first = next(iter(classes), None)
    for name, found in classes.items():
        if found != classes[first]:
            raise ValueError(
                f"the data sets of one run must have the same classes in the same order: {first} has"
                f" {', '.join(classes[first])}; {name} has {', '.join(found)}"
            )
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" and len(found) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ValueError(
                f"data set {name} has {len(found)} classes, but MODEL.ROI_HEADS.NUM_CLASSES is"
                f" {cfg.MODEL.ROI_HEADS.NUM_CLASSES}; add  MODEL.ROI_HEADS.NUM_CLASSES {len(found)}"
            )

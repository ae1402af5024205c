"""What a run needs of its data sets, checked before it starts rather than after hours of training."""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from mocodet.common.text import first_few

from ..data.cityscapes import ANNOTATION_ENDINGS, check_cityscapes_files
from ..data.packages import require_packages
from ..data.semseg import SEM_SEG_TYPES


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check that the data sets of ``cfg.DATASETS`` are there, hold something, and fit the model.

    Data sets from ``MOCO.DATASETS`` are read whole; for those that detectron2 brings, only their files are looked for,
    and the packages that read and evaluate them.

    Args:
        cfg: the config of the run, its ``MOCO.DATASETS`` registered.
        training: check ``DATASETS.TRAIN`` too, not only ``DATASETS.TEST``.

    Raises:
        FileNotFoundError: files of a data set are missing.
        ValueError: no data set is named, a name is unknown, a data set is empty or malformed, a package is missing,
            the data sets disagree about their classes, or the model learns or predicts something else than they hold.
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
        _check_kind(cfg, name)
    for name in names:
        if name not in own:
            _check_builtin(name)
            continue
        records = DatasetCatalog.get(name)
        if name in to_train:
            _check_trainable(cfg, name, records)
    for name in names:
        if cfg.MODEL.KEYPOINT_ON:
            _check_keypoints(cfg, name)
    for name in cfg.DATASETS.TEST:
        if MetadataCatalog.get(name).get("evaluator_type") == "cityscapes_instance":
            _check_cityscapes_can_be_evaluated(cfg, name)
    _check_classes(cfg, names)


def _check_names_are_known(names: Sequence[str], own: set[str]) -> None:
    known = set(DatasetCatalog.list())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"DATASETS names {', '.join(unknown)}, which neither detectron2 nor MOCO.DATASETS defines; the latter has"
            f" {', '.join(sorted(own)) or 'no entry'}"
        )


def _check_kind(cfg: CfgNode, name: str) -> None:
    """Refuse objects for a model that learns from label images, and the reverse; panoptic data sets have both."""
    metadata = MetadataCatalog.get(name)
    labels_alone = metadata.get("evaluator_type") in SEM_SEG_TYPES
    has_labels = labels_alone or bool(metadata.get("sem_seg_root"))
    if has_labels if _segments_semantically(cfg) else not labels_alone:
        return
    raise ValueError(
        f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} learns from"
        f" {'objects' if labels_alone else 'label images'}, but data set {name} has"
        f" {'label images' if labels_alone else 'objects'}"
    )


def _check_builtin(name: str) -> None:
    metadata = MetadataCatalog.get(name)
    evaluator_type = metadata.get("evaluator_type")
    require_packages(name, evaluator_type)
    folders = ("json_file", "image_root", "dirname", "image_dir", "gt_dir", "sem_seg_root")
    wanted = [metadata.get(key) for key in folders]
    missing = [path for path in wanted if path and "://" not in path and not Path(path).exists()]
    if missing:
        datasets = os.environ.get("DETECTRON2_DATASETS", "unset, so ./datasets")
        raise FileNotFoundError(
            f"data set {name}: there is no {' and no '.join(missing)}; put it there (mocodet prepare-data can), or set"
            f" the environment variable DETECTRON2_DATASETS (now {datasets}) to the folder that detectron2's data sets"
            " are in"
        )
    if evaluator_type in ANNOTATION_ENDINGS:
        check_cityscapes_files(name, metadata.image_dir, metadata.gt_dir, ANNOTATION_ENDINGS[evaluator_type])
    elif evaluator_type == "sem_seg":
        DatasetCatalog.get(name)  # looks for the list and for each file


def _check_trainable(cfg: CfgNode, name: str, records: list[dict]) -> None:
    if _segments_semantically(cfg):
        return  # every record has its label image
    annotations = [annotation for record in records for annotation in record["annotations"]]
    if not annotations:
        raise ValueError(f"data set {name}: none of its {len(records)} images has an annotation to train on")
    bare = sum("segmentation" not in annotation for annotation in annotations)
    if cfg.MODEL.MASK_ON and bare:
        raise ValueError(
            f"MODEL.MASK_ON, but {bare} of the {len(annotations)} annotations of data set {name} have no mask;"
            " set MODEL.MASK_ON False"
        )
    bare = sum("keypoints" not in annotation for annotation in annotations)
    if cfg.MODEL.KEYPOINT_ON and bare:
        raise ValueError(
            f"MODEL.KEYPOINT_ON, but {bare} of the {len(annotations)} annotations of data set {name} have no keypoints;"
            " give them keypoints (visibility 0 where unknown) or set MODEL.KEYPOINT_ON False"
        )


def _check_keypoints(cfg: CfgNode, name: str) -> None:
    metadata = MetadataCatalog.get(name)
    keypoints, classes = metadata.get("keypoint_names", ()), metadata.get("thing_classes", ())
    if not keypoints:
        raise ValueError(f"MODEL.KEYPOINT_ON, but data set {name} has no keypoints; set MODEL.KEYPOINT_ON False")
    if len(classes) != 1:
        raise ValueError(
            f"MODEL.KEYPOINT_ON, but data set {name} has {len(classes)} classes ({first_few(classes)}); a keypoint"
            " detector is trained and evaluated on one"
        )
    if len(keypoints) != cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS:
        raise ValueError(
            f"data set {name} has {len(keypoints)} keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is"
            f" {cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS}; add  MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(keypoints)}"
        )


def _check_cityscapes_can_be_evaluated(cfg: CfgNode, name: str) -> None:
    if not cfg.MODEL.MASK_ON:
        raise ValueError(f"data set {name} is evaluated by masks alone; set MODEL.MASK_ON True")
    if comm.get_local_size() != comm.get_world_size():
        raise ValueError(
            f"data set {name} is evaluated through files that all processes share: its evaluation runs on one machine,"
            f" but {comm.get_world_size() // comm.get_local_size()} take part; set DATASETS.TEST () and evaluate with"
            " --eval-only afterwards"
        )


def _segments_semantically(cfg: CfgNode) -> bool:
    return cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"


def _check_classes(cfg: CfgNode, names: Sequence[str]) -> None:
    if cfg.MODEL.get("DENSEPOSE_ON", False):
        return  # the DensePose project merges the classes of its data sets itself, when it reads them
    kind, key, number = "thing_classes", "ROI_HEADS", cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if _segments_semantically(cfg):
        kind, key, number = "stuff_classes", "SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    classes = {name: tuple(MetadataCatalog.get(name).get(kind, ())) for name in names}
    first = next(iter(classes), None)
    for name, found in classes.items():
        if found != classes[first]:
            raise ValueError(
                f"the data sets of one run must have the same classes in the same order: {first} has"
                f" {', '.join(classes[first])}; {name} has {', '.join(found)}"
            )
        if cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "SemanticSegmentor") and len(found) != number:
            raise ValueError(
                f"data set {name} has {len(found)} classes, but MODEL.{key}.NUM_CLASSES is {number}; add "
                f" MODEL.{key}.NUM_CLASSES {len(found)}"
            )
        if _segments_semantically(cfg):
            _check_ignored_label(cfg, name)


def _check_ignored_label(cfg: CfgNode, name: str) -> None:
    ignored, expected = MetadataCatalog.get(name).get("ignore_label"), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if ignored is None:
        raise ValueError(
            f"the metadata of data set {name} does not say which label is ignored: set its ignore_label (the model"
            f" ignores {expected})"
        )
    if ignored != expected:
        raise ValueError(
            f"data set {name} ignores the label {ignored}, but MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {expected}; add "
            f" MODEL.SEM_SEG_HEAD.IGNORE_VALUE {ignored}"
        )

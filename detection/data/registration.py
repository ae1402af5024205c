"""Registers user data sets from ``MOCO.DATASETS``, without any code, and VOC's segmentation data sets."""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from mocodet.common.formats.hold_out import HoldOut, read_hold_out
from mocodet.common.formats.labels import IGNORED, MAX_IGNORED, Meaning
from mocodet.common.formats.yolo_folder import read_yolo

from .coco import load_coco, load_yolo
from .semseg import load_semseg
from .voc import load_voc


@dataclass(frozen=True)
class VocDataset:
    """One split of a data set in Pascal VOC layout."""

    name: str
    root: str  # folder with Annotations/, ImageSets/Main/ and JPEGImages/, or with XML files and images side by side
    split: str  # name of a list in ImageSets/Main/, without .txt, or path of a list; see hold_out
    classes: tuple[str, ...]
    year: int = 2007  # definition of AP: 2007 (eleven points) or 2012 (area)
    hold_out: float = 0.0  # if not 0, split test has approximately this fraction of the images, and train the others
    hold_out_seed: int = 0

    def __post_init__(self) -> None:
        _check_classes(self.name, self.classes)
        if self.year not in (2007, 2012):
            raise ValueError(
                f"data set {self.name}: YEAR selects the definition of AP and must be 2007 or 2012, got {self.year}"
            )
        _hold_out(self)

    def register(self) -> None:
        """Add the data set to detectron2's catalogs."""
        root = _expand(self.root)
        hold_out = _hold_out(self)
        DatasetCatalog.register(self.name, lambda: load_voc(self.name, root, self.split, self.classes, hold_out))
        metadata = MetadataCatalog.get(self.name).set(thing_classes=list(self.classes), evaluator_type="pascal_voc")
        metadata.set(dirname=root, split=self.split, year=self.year, hold_out=hold_out)


@dataclass(frozen=True)
class CocoDataset:
    """A COCO JSON file of boxes (and masks or keypoints), with the folder of its images."""

    name: str
    json: str
    images: str  # the folder to which the file names in the JSON are relative
    classes: tuple[str, ...] = ()  # categories of the JSON to use, in the order of their indices; empty: all
    split: str = ""  # train or test with hold_out, empty without
    hold_out: float = 0.0  # as in `VocDataset`
    hold_out_seed: int = 0

    def __post_init__(self) -> None:
        if self.classes:
            _check_classes(self.name, self.classes)
        _hold_out(self)

    def register(self) -> None:
        """Add the data set to detectron2's catalogs. ``thing_classes`` is set once the data set has been loaded."""
        json, images, hold_out = _expand(self.json), _expand(self.images), _hold_out(self)
        DatasetCatalog.register(
            self.name, lambda: load_coco(self.name, json, images, self.classes, self.split, hold_out)
        )
        metadata = MetadataCatalog.get(self.name).set(json_file=json, image_root=images, evaluator_type="coco")
        metadata.set(chosen_classes=self.classes, split=self.split, hold_out=hold_out)


@dataclass(frozen=True)
class YoloDataset:
    """One split of a data set of boxes (and polygons) in YOLO format, evaluated with COCO's metrics."""

    name: str
    root: str  # data.yaml, or a folder with images/ and labels/
    split: str = ""  # such as train; empty if there is only one split
    classes: tuple[str, ...] = ()  # class names to use, in the order of their indices; empty: all
    hold_out: float = 0.0  # as in `VocDataset`, if data.yaml or the folders define only one split
    hold_out_seed: int = 0

    def __post_init__(self) -> None:
        if self.classes:
            _check_classes(self.name, self.classes)
        _hold_out(self)

    def register(self) -> None:
        """Add the data set to detectron2's catalogs. ``thing_classes`` is set once the data set has been loaded."""
        root, hold_out = _expand(self.root), _hold_out(self)
        DatasetCatalog.register(self.name, lambda: load_yolo(self.name, root, self.split, self.classes, hold_out))
        metadata = MetadataCatalog.get(self.name).set(json_file=root, evaluator_type="coco")
        metadata.set(read_truth=partial(read_yolo, Path(root), self.split, self.classes, hold_out))


@dataclass(frozen=True)
class SemSegDataset:
    """Images and label images of the same names, whose pixel values are class indices."""

    name: str
    images: str
    labels: str
    classes: tuple[str, ...]  # in the order of their indices, including background if it is a class
    split: str = ""  # file that lists one image per line; empty: all images in the folder
    ignore: int = IGNORED  # label excluded from training and evaluation; 255 on VOC's outlines
    values: tuple[int, ...] = ()  # label of each class; empty: its index
    max_ignored: float = MAX_IGNORED  # maximum fraction of all pixels that may be ignored

    def __post_init__(self) -> None:
        _check_classes(self.name, self.classes)
        _check(self.name, self.meaning.check)

    @property
    def meaning(self) -> Meaning:
        """The meaning of the values in the label images."""
        return Meaning(self.classes, self.ignore, self.values, self.max_ignored)

    def register(self) -> None:
        """Add the data set to detectron2's catalogs."""
        images, labels, split = map(_expand, (self.images, self.labels, self.split))
        DatasetCatalog.register(self.name, lambda: load_semseg(self.name, images, labels, split, self.values))
        metadata = MetadataCatalog.get(self.name).set(stuff_classes=list(self.classes), evaluator_type="sem_seg")
        metadata.set(image_root=images, sem_seg_root=labels, label_values=self.values)
        # Reading converts the labels in VALUES to indices, so the ignored index is not one of VALUES.
        metadata.set(ignore_label=IGNORED if self.values else self.ignore)
        metadata.set(meaning=self.meaning)


# Folder of the labels, and list of the images. trainaug is the paper's train_aug2012 (10,582 images): VOC's train split
# and the additional images labelled by Hariharan et al. (Semantic contours from inverse detectors, 2011), without VOC's
# val split.
VOC_SETS = {
    "voc_2012_trainaug_sem_seg": ("SegmentationClassAug", "trainaug"),
    "voc_2012_val_sem_seg": ("SegmentationClass", "val"),
}

Dataset = VocDataset | CocoDataset | YoloDataset | SemSegDataset

# Data set class for each KIND in MOCO.DATASETS. The other keys of an entry are the fields of the class in upper case.
# Fields with a default are optional.
KINDS: dict[str, type[Dataset]] = {
    "voc": VocDataset,
    "coco": CocoDataset,
    "yolo": YoloDataset,
    "semseg": SemSegDataset,
}

# Types of the keys whose values are not strings.
TYPES = {"YEAR": int, "IGNORE": int, "HOLD_OUT_SEED": int, "MAX_IGNORED": float, "HOLD_OUT": float}

Checked = TypeVar("Checked")

_registered: dict[str, Dataset] = {}


def register_voc_sem_seg() -> None:
    """Register ``voc_2012_trainaug_sem_seg`` and ``voc_2012_val_sem_seg``, which detectron2 does not provide.

    Like detectron2's own Pascal VOC data sets, they are in ``VOC2012/`` under ``$DETECTRON2_DATASETS``: the images in
    ``JPEGImages/``, the labels in ``SegmentationClassAug/`` and ``SegmentationClass/``, and the image lists in
    ``ImageSets/Segmentation/``.
    """
    root = f"{os.getenv('DETECTRON2_DATASETS', 'datasets')}/VOC2012"
    for name, (labels, split) in VOC_SETS.items():
        if name not in DatasetCatalog.list():
            listed = f"{root}/ImageSets/Segmentation/{split}.txt"
            SemSegDataset(
                name, f"{root}/JPEGImages", f"{root}/{labels}", ("background", *CLASS_NAMES), listed
            ).register()


def register_datasets(cfg: CfgNode) -> None:
    """Register every entry of ``cfg.MOCO.DATASETS`` with detectron2.

    Registering the same definition again has no effect, so each process of a run can call this function.

    Raises:
        ValueError: an entry is malformed, or its name already belongs to another data set.
    """
    for entry in cfg.MOCO.DATASETS:
        dataset = parse_dataset(entry)
        if _registered.get(dataset.name) == dataset:
            continue
        if dataset.name in DatasetCatalog.list():
            known = _registered.get(dataset.name, "a data set that detectron2 or another plugin registered")
            raise ValueError(
                f"MOCO.DATASETS: the name {dataset.name!r} already refers to {known} and cannot also refer to"
                f" {dataset}; choose another NAME"
            )
        dataset.register()
        _registered[dataset.name] = dataset


def parse_dataset(entry: object) -> Dataset:
    """Convert one entry of ``MOCO.DATASETS`` to its dataclass.

    Raises:
        ValueError: the entry is not a mapping, its ``KIND`` is unknown, keys are missing or unknown, or a value has the
            wrong type.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"MOCO.DATASETS: every entry must be a mapping with NAME and KIND, got {entry!r}")
    kind = entry.get("KIND")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"MOCO.DATASETS: KIND must be one of {', '.join(KINDS)}, got {kind!r} in {dict(entry)}")
    keys, known = set(entry) - {"KIND"}, {field.name.upper(): field for field in fields(KINDS[kind])}
    if missing := sorted(key for key, field in known.items() if field.default is MISSING and key not in keys):
        raise ValueError(f"MOCO.DATASETS: an entry of KIND {kind} also requires {', '.join(missing)}: {dict(entry)}")
    if unknown := keys - known.keys():
        raise ValueError(
            f"MOCO.DATASETS: unknown key {', '.join(sorted(map(str, unknown)))} in {dict(entry)}; the keys of KIND"
            f" {kind} are {', '.join(sorted(known))}"
        )
    return KINDS[kind](**{key.lower(): _value(key, entry[key]) for key in keys})


def _value(key: str, value: object) -> Any:
    if key == "CLASSES":
        if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
            return tuple(value)
        raise ValueError(f"MOCO.DATASETS: CLASSES must be a list of names, got {value!r}")
    if key == "VALUES":
        if isinstance(value, (list, tuple)) and all(type(one) is int for one in value):
            return tuple(value)
        raise ValueError(f"MOCO.DATASETS: VALUES must be a list of integers, got {value!r}")
    wanted = TYPES.get(key, str)
    if wanted is float and type(value) is int:
        return float(value)
    if not isinstance(value, wanted) or value == "":
        raise ValueError(f"MOCO.DATASETS: {key} must be of type {wanted.__name__}, got {value!r}")
    return value


def _expand(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""


def _hold_out(dataset: VocDataset | CocoDataset | YoloDataset) -> HoldOut | None:
    """Return how a data set holds out part of its images, or None if it does not; see `read_hold_out` for errors."""
    return _check(dataset.name, read_hold_out, dataset.split, dataset.hold_out, dataset.hold_out_seed)


def _check(name: str, check: Callable[..., Checked], *arguments: object) -> Checked:
    """Call a check and prefix the error that it raises with the name of the data set."""
    try:
        return check(*arguments)
    except ValueError as error:
        raise ValueError(f"data set {name}: {error}") from None


def _check_classes(name: str, classes: tuple[str, ...]) -> None:
    if not classes:
        raise ValueError(f"data set {name}: CLASSES is empty; list the class names in the order of their indices")
    if repeated := sorted({c for c in classes if classes.count(c) > 1}):
        raise ValueError(f"data set {name}: CLASSES lists {', '.join(repeated)} more than once")

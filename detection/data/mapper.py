"""Maps records to the model's input, with the augmentation for semantic segmentation (MoCo, Appendix)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T

from mocodet.common.formats import MAX_PIXELS
from mocodet.common.formats.labels import check_same_size, read_labels

from .images import read_image


def build_mapper(cfg: CfgNode, *, training: bool) -> "SemSegMapper | InstanceMapper":
    """Return the mapper for records. For detectors, it is equivalent to detectron2's ``DatasetMapper``.

    For training a ``SemanticSegmentor``, it applies a random scale (``INPUT.SCALE_RANGE``, or ``INPUT.MIN_SIZE_TRAIN``
    if that is empty), a crop (``INPUT.CROP``; if its ``TYPE`` is absolute, the crop always has its full size, because
    smaller images are padded) and a flip (``INPUT.RANDOM_FLIP``).

    During evaluation, the evaluator reads the labels itself, because ``DatasetMapper`` would load them as greyscale
    images. If ``INPUT.MIN_SIZE_TEST`` is 0, images keep their size.
    """
    if cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor":
        return InstanceMapper(cfg, training)
    if not training:
        augmentations = detection_utils.build_augmentation(cfg, is_train=False)
        return SemSegMapper(augmentations, cfg.INPUT.FORMAT, max_pixels=cfg.INPUT.MAX_PIXELS)
    head, augmentations = cfg.MODEL.SEM_SEG_HEAD, semseg_augmentations(cfg)
    return SemSegMapper(
        augmentations, cfg.INPUT.FORMAT, head.NUM_CLASSES, head.IGNORE_VALUE, max_pixels=cfg.INPUT.MAX_PIXELS
    )


def semseg_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the training augmentations described in `build_mapper`, in order."""
    resize, *flip = detection_utils.build_augmentation(cfg, is_train=True)
    found = [RandomScale(*cfg.INPUT.SCALE_RANGE) if cfg.INPUT.SCALE_RANGE else resize]
    if cfg.INPUT.CROP.ENABLED:
        # detectron2's FixedSizeCrop also pads, but it uses one random number for both axes, so its windows lie on the
        # diagonal of the image and never reach the other two corners.
        found.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.INPUT.CROP.TYPE == "absolute":
            found.append(PadToSize(cfg.INPUT.CROP.SIZE, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE))
    return found + flip


class InstanceMapper(DatasetMapper):
    """detectron2's mapper for images with objects, except that images are read with this plugin's `read_image`.

    Args:
        max_pixels: the maximum number of pixels; 0 means no limit.
        more: the arguments of ``DatasetMapper``.
    """

    @configurable
    def __init__(self, *, max_pixels: int, **more: Any) -> None:
        super().__init__(**more)
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments that the config specifies."""
        return {**super().from_config(cfg, is_train), "max_pixels": cfg.INPUT.MAX_PIXELS}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the record with ``image`` (3 x H x W) and, in training, ``instances``.

        Raises:
            ValueError: the image cannot be read or augmented, or its size differs from that in the record.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format, self.max_pixels)
        detection_utils.check_image_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:  # a panoptic data set
            labels = detection_utils.read_image(record.pop("sem_seg_file_name"), "L").squeeze(2)
        augmented = T.AugInput(image, sem_seg=labels)
        transforms = augment(self.augmentations, augmented, record["file_name"])
        size = augmented.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, size)
        return record

    def _transform_annotations(
        self, record: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        if all(annotation.get("iscrowd", 0) for annotation in record["annotations"]):
            # When cropping masks, detectron2's mapper would compute boxes from masks that do not exist.
            del record["annotations"]
            record["instances"] = detection_utils.annotations_to_instances([], image_shape)
        else:
            super()._transform_annotations(record, transforms, image_shape)


def augment(augmentations: T.AugmentationList, augmented: T.AugInput, file_name: str) -> T.Transform:
    """Augment an image and its labels in place, and return the transform.

    Raises:
        ValueError: the image cannot be augmented. For example, a side of a very elongated image would have 0 pixels.
    """
    height, width = augmented.image.shape[:2]
    try:
        return augmentations(augmented)
    except ValueError as error:
        raise ValueError(
            f"{file_name} ({width} x {height} pixels) cannot be augmented: {error}; remove it, or check the settings in"
            " INPUT"
        ) from error


@dataclass
class SemSegMapper:
    """Reads an image and, in training, its labels, and applies the same augmentation to both."""

    augmentations: Sequence[T.Augmentation]  # applied in this order
    image_format: str  # a value of INPUT.FORMAT
    num_classes: int | None = None  # labels must be below this; None in evaluation, where no labels are read
    ignore_label: int = 255  # the only other label that is allowed
    max_pixels: int = MAX_PIXELS  # the maximum number of pixels; 0 means no limit

    def __call__(self, record: dict) -> dict:
        """Return the record with ``image`` (3 x H x W, uint8) and, in training, ``sem_seg`` (H x W, int64).

        ``height`` and ``width`` are those of the file. ``SemanticSegmentor`` resizes its prediction to this size.

        Raises:
            FileNotFoundError: the label image does not exist.
            ValueError: the image or the labels cannot be read, their sizes differ, or the labels contain a value that
                is not a class.
        """
        record = dict(record)
        label_file, values = record.pop("sem_seg_file_name"), record.pop("label_values", ())
        image = read_image(record["file_name"], self.image_format, self.max_pixels)
        detection_utils.check_image_size(record, image)
        labels = None
        if self.num_classes is not None:
            labels = read_labels(label_file, self.num_classes, self.ignore_label, values)
            check_same_size(label_file, labels.shape, record["file_name"], image.shape[:2])
        augmented = T.AugInput(image, sem_seg=labels)
        augment(T.AugmentationList(self.augmentations), augmented, record["file_name"])
        record["image"] = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if labels is not None:
            record["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype(np.int64))
        return record


@dataclass(repr=False)
class RandomScale(T.Augmentation):
    """Scales height and width by one uniform random ratio: bilinear for images, nearest neighbour for labels."""

    low: float  # the smallest ratio
    high: float

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Sample the ratio for an image (H x W x 3)."""
        height, width = image.shape[:2]
        ratio = self._rand_range(self.low, self.high)
        return T.ResizeTransform(height, width, *(max(1, round(side * ratio)) for side in (height, width)))


@dataclass(repr=False)
class PadToSize(T.Augmentation):
    """Pads images that are smaller than a given size, on the right and at the bottom."""

    size: Sequence[int]  # height and width in pixels
    colour: Sequence[float]  # padding value of each channel; the pixel mean becomes 0 after normalisation
    label: int  # padding value of label images

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the padding that an image (H x W x 3) requires."""
        bottom, right = (max(0, wanted - side) for wanted, side in zip(self.size, image.shape[:2], strict=True))
        return ColourPadTransform(right, bottom, self.colour, self.label)


class ColourPadTransform(T.PadTransform):
    """``PadTransform`` with a padding value for each channel, where detectron2's has one value for all channels.

    Args:
        right: number of columns to add.
        bottom: number of rows to add.
        colour: padding value of each channel, rounded for integer images.
        label: padding value of label images.
    """

    def __init__(self, right: int, bottom: int, colour: Sequence[float], label: int):
        super().__init__(0, 0, right, bottom, seg_pad_value=label)
        self.colour = colour

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Pad an image (H x W x 3)."""
        padded, (height, width) = super().apply_image(img), img.shape[:2]
        colour = np.rint(self.colour) if np.issubdtype(img.dtype, np.integer) else self.colour
        padded[height:], padded[:, width:] = colour, colour
        return padded

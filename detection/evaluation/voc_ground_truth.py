"""What there is to find in a split of Pascal VOC's layout, read once."""

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from ..data.voc import read_split
from .voc_ap import Objects

logger = logging.getLogger(__name__)

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class GroundTruth:
    """The images of a split in its order, and the objects of each class in them."""

    images: Sequence[str]
    objects: Mapping[str, Objects]  # by class, in the order of the classes

    @property
    def absent(self) -> list[str]:
        """The classes with nothing to find: no object, or only difficult ones."""
        return [name for name, objects in self.objects.items() if not objects.num_positives]


def read_ground_truth(root: str, split: str, class_names: Sequence[str]) -> GroundTruth:
    """Read the annotations of ``ImageSets/Main/<split>.txt``; objects of other classes are passed over.

    Raises:
        FileNotFoundError: there is no such split or annotation.
        ValueError: an annotation is malformed.
    """
    images = read_split(root, split)
    rows: dict[str, list[tuple[int, float, float, float, float, bool]]] = {name: [] for name in class_names}
    for place, image in enumerate(images):
        path = Path(root, "Annotations", f"{image}.xml")
        try:
            found = ElementTree.parse(path).getroot().findall("object")
            for node in found:
                if (name := node.findtext("name")) in rows:
                    rows[name].append((place, *_box(node), bool(int(node.findtext("difficult")))))
        except FileNotFoundError:
            raise FileNotFoundError(f"{image} is in the split {split}, but there is no {path}") from None
        except (ElementTree.ParseError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not an annotation as VOC's: {error}") from error
    return GroundTruth(images, {name: _objects(found) for name, found in rows.items()})


def check_voc_ground_truth(dataset_name: str) -> None:
    """Refuse a data set of type ``pascal_voc`` whose AP could not be a number, before training rather than after.

    Classes without ground truth (absent, or difficult only) make the mean of the 2012 metric nan; the mean of the 2007
    metric counts them as 0, which is warned of.

    Raises:
        FileNotFoundError: there is no such split or annotation.
        ValueError: no class has ground truth; or a class has none, and the data set's year asks for the 2012 metric.
    """
    metadata = MetadataCatalog.get(dataset_name)
    truth = read_ground_truth(metadata.dirname, metadata.split, metadata.thing_classes)
    if not truth.absent:
        return
    names = ", ".join(truth.absent)
    if len(truth.absent) == len(truth.objects):
        raise ValueError(
            f"data set {dataset_name} has no ground truth to evaluate on: its {len(truth.images)} images hold no object"
            f" of {names} that is not marked difficult"
        )
    if metadata.year != 2007:
        raise ValueError(
            f"data set {dataset_name} has no ground truth for {names} (objects marked difficult do not count), and the"
            " mean AP by the 2012 metric would not be a number; leave out these classes, evaluate on a split that has"
            " them, or choose YEAR 2007, which counts them as 0"
        )
    logger.warning(
        f"No ground truth in {dataset_name} for {names}: the 2007 metric counts a class without any as AP 0, and so"
        " will its mean"
    )


def _box(node: ElementTree.Element) -> tuple[float, ...]:
    # VOC2012 has a few corners between pixels.
    box = tuple(float(node.findtext(f"bndbox/{side}")) for side in SIDES)
    if not np.isfinite(box).all():
        raise ValueError(f"the box {box} is not finite")
    return box


def _objects(rows: Sequence[tuple[float, ...]]) -> Objects:
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return Objects(table[:, 0].astype(int), table[:, 1:5], table[:, 5].astype(bool))

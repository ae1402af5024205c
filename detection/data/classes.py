"""The classes of a model (names, ids and colours), which a checkpoint stores together with the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.colormap import colormap

from mocodet.common.formats.coco_values import Id

Colour = tuple[int, int, int]  # RGB, 0 to 255


@dataclass(frozen=True)
class Classes:
    """The classes of a model, in the order of their indices.

    Attributes:
        names: the class names.
        ids: the ``category_id`` of each class in COCO format: the ids of the data set's own file or, if it has none, 1,
            2 and so on. For semantic segmentation, the values in label images, which equal the indices.
        colours: the colour used to draw each class.
        keypoints: the names of an object's keypoints, if any.
        skeleton: the pairs of keypoints that are connected by a line.
    """

    names: tuple[str, ...]
    ids: tuple[Id, ...]
    colours: tuple[Colour, ...]
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[str, str], ...] = ()

    def categories(self) -> list[dict[str, Any]]:
        """Return the categories in COCO format, in which skeletons number keypoints from 1."""
        shape: dict[str, Any] = {"keypoints": list(self.keypoints)} if self.keypoints else {}
        if self.skeleton:
            shape["skeleton"] = [[self.keypoints.index(end) + 1 for end in line] for line in self.skeleton]
        return [{"id": i, "name": name, **shape} for i, name in zip(self.ids, self.names, strict=True)]

    def as_metadata(self) -> Metadata:
        """Return the metadata required by detectron2's ``Visualizer``."""
        metadata = Metadata(thing_colors=list(self.colours))
        if self.keypoints:
            lines = [(*line, colour) for line, colour in zip(self.skeleton, _palette(len(self.skeleton)), strict=True)]
            metadata.set(keypoint_names=list(self.keypoints), keypoint_connection_rules=lines)
        return metadata


def to_checkpoint(classes: Classes) -> dict[str, Any]:
    """Return the classes as plain lists, which are safe to store in a checkpoint."""
    return {key: _listed(value) for key, value in asdict(classes).items()}


def from_checkpoint(kept: Any) -> Classes | None:
    """Return the classes stored by `to_checkpoint`, or None for any other value, such as one from another program."""
    try:
        names, ids = map(tuple, (kept["names"], kept["ids"]))
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in kept["colours"])
        skeleton = tuple((str(start), str(end)) for start, end in kept["skeleton"])
        classes = Classes(names, ids, colours, tuple(kept["keypoints"]), skeleton)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, RuntimeError):  # tensors raise some of these
        return None
    plain = all(type(word) in (int, str) for word in (*names, *ids, *classes.keypoints))
    return classes if plain and len(names) == len(ids) == len(colours) else None


def classes_of(cfg: CfgNode, dataset_name: str) -> Classes | None:
    """Return a data set's classes as a config's model learns them, or None if its metadata lists no classes.

    Args:
        cfg: the config, which determines whether objects or pixels are classified and whether there are keypoints.
        dataset_name: a data set that has already been loaded, because some data sets read their classes from files.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = tuple(metadata.get("stuff_classes" if predicts_pixels(cfg) else "thing_classes", ()))
    if not names:
        return None
    indices: Mapping[Id, int] = metadata.get("thing_dataset_id_to_contiguous_id", {})
    # If multiple categories share a class, use the id of the first one.
    known = {index: identity for identity, index in reversed(list(indices.items()))}
    if predicts_pixels(cfg):
        known = dict(enumerate(range(len(names))))
    keypoints = tuple(metadata.get("keypoint_names", ())) if cfg.MODEL.KEYPOINT_ON else ()
    lines = metadata.get("keypoint_connection_rules", ()) if keypoints else ()
    return Classes(
        names=names,
        ids=tuple(known.get(index, index + 1) for index in range(len(names))),
        colours=_palette(len(names), class_colours(names, metadata)),
        keypoints=keypoints,
        skeleton=tuple((start, end) for start, end, _ in lines),
    )


def numbered(cfg: CfgNode) -> Classes:
    """Return placeholder classes for a config's model if its classes are unknown; their names are based on the ids."""
    first, count = (0 if predicts_pixels(cfg) else 1), number_of_classes(cfg)
    ids = range(first, first + count)
    return Classes(tuple(f"class {i}" for i in ids), tuple(ids), _palette(count))


def predicts_pixels(cfg: CfgNode) -> bool:
    """Return whether a config's model classifies each pixel instead of detecting objects."""
    return cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"


def number_of_classes(cfg: CfgNode) -> int:
    """Return the number of classes that a config's model predicts."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    return cfg.MODEL["SEM_SEG_HEAD" if predicts_pixels(cfg) else "ROI_HEADS"].NUM_CLASSES


def class_colours(names: Sequence[str], metadata: Metadata) -> np.ndarray:
    """Return a colour for each class (C x 3, from 0 to 1): the data set's own, or else detectron2's palette in turn."""
    for key in ("thing_colors", "stuff_colors"):
        own = metadata.get(key)
        if own is not None and len(own) == len(names):
            return np.asarray(own, dtype=float) / 255
    palette = colormap(rgb=True, maximum=1)
    return palette[np.arange(len(names)) % len(palette)]


def _palette(count: int, colours: np.ndarray | None = None) -> tuple[Colour, ...]:
    """Convert ``colours`` (C x 3, from 0 to 1; default: detectron2's palette in turn) to the range 0 to 255."""
    colours = class_colours([""] * count, Metadata()) if colours is None else colours
    return tuple((int(red), int(green), int(blue)) for red, green, blue in np.rint(255 * colours))


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value

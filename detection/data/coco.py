"""Data sets given as a COCO JSON file and a folder of images, read with errors that say what is wrong."""

from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json


def load_coco(name: str, json: str, images: str, classes: Sequence[str] = ()) -> list[dict]:
    """Read a COCO JSON file with detectron2's ``load_coco_json`` and check it against the folder and ``classes``.

    Sets ``thing_classes`` and the category mapping in the metadata of ``name``, as detectron2 does.

    Raises:
        FileNotFoundError: the file, the folder or an image is missing.
        ValueError: the file is no COCO JSON, names no image, or its categories are not ``classes``.
    """
    if not Path(json).is_file():
        raise FileNotFoundError(f"data set {name}: there is no annotation file {json}")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: there is no image folder {images}")
    try:
        records = load_coco_json(json, images, name)
    except (AssertionError, JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"data set {name}: {json} is not a COCO JSON of instances: {error!r}") from error
    if not records:
        raise ValueError(f"data set {name}: {json} names no image: the data set is empty")
    found = tuple(MetadataCatalog.get(name).thing_classes)
    if classes and tuple(classes) != found:
        raise ValueError(
            f"data set {name}: CLASSES is {', '.join(classes)}, but the categories of {json}, in the order of their"
            f" ids, are {', '.join(found)}"
        )
    missing = [record["file_name"] for record in records if not Path(record["file_name"]).is_file()]
    if missing:
        raise FileNotFoundError(
            f"data set {name}: {len(missing)} of the {len(records)} images that {json} names do not exist,"
            f" the first is {missing[0]}"
        )
    return records

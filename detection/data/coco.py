"""Data sets given as a COCO JSON file and a folder of images, read with errors that say what is wrong."""

from collections.abc import Mapping, Sequence
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

LEFT, RIGHT = "left_", "right_"


def load_coco(name: str, json: str, images: str, classes: Sequence[str] = ()) -> list[dict]:
    """Read a COCO JSON file with detectron2's ``load_coco_json`` and check it against the folder and ``classes``.

    Sets ``thing_classes`` and the category mapping in the metadata of ``name``, as detectron2 does, and where objects
    have keypoints ``keypoint_names`` and ``keypoint_flip_map``.

    Raises:
        FileNotFoundError: the file, the folder or an image is missing.
        ValueError: the file is no COCO JSON or is LVIS's, names no image, its categories are not ``classes``, or its
            keypoints do not fit their names.
    """
    if not Path(json).is_file():
        raise FileNotFoundError(f"data set {name}: there is no annotation file {json}")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: there is no image folder {images}")
    try:
        content = Path(json).read_text(encoding="utf-8")
        if '"neg_category_ids"' in content:  # to parse a large file a second time is slow
            check_not_lvis(json, loads(content)["images"])
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
    if any("keypoints" in annotation for record in records for annotation in record["annotations"]):
        _set_keypoint_metadata(name, json, records)
    return records


def check_not_lvis(json: str, images: Sequence[Mapping[str, Any]]) -> None:
    """Check that the ``images`` of a file ``json`` are not LVIS's, which have annotations of some categories each.

    COCO's metrics would count what is found of the other categories as wrong (Gupta et al., CVPR 2019, section 3).

    Raises:
        ValueError: an image has ``neg_category_ids``.
    """
    if any("neg_category_ids" in image for image in images):
        raise ValueError(
            f"{json} holds annotations of LVIS (neg_category_ids), which COCO's metrics would misjudge; use one of"
            " detectron2's data sets lvis_..., as DATASETS.TEST \"('lvis_v0.5_val',)\" or --dataset lvis_v0.5_val"
        )


def _set_keypoint_metadata(name: str, json: str, records: list[dict]) -> None:
    metadata = _keypoint_metadata(name, loads(Path(json).read_text(encoding="utf-8"))["categories"])
    if not metadata:
        raise ValueError(
            f"data set {name}: objects in {json} have keypoints, but no category names them; a category needs"
            ' "keypoints": ["nose", "left_eye", "right_eye", ...]'
        )
    names = metadata["keypoint_names"]
    for record in records:
        for annotation in record["annotations"]:
            values = annotation.get("keypoints", [])
            if values and len(values) != 3 * len(names):
                raise ValueError(
                    f"data set {name}: an object in {record['file_name']} has {len(values)} numbers as keypoints;"
                    f" expected x, y and visibility of each of {len(names)}"
                )
    MetadataCatalog.get(name).set(**metadata)


def _keypoint_metadata(name: str, categories: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Return detectron2's metadata of keypoints, from the categories of a COCO JSON.

    Args:
        name: name of the data set, for messages.
        categories: as in the file; those with keypoints have the list ``keypoints`` of their names.

    Returns:
        ``keypoint_names``, and ``keypoint_flip_map``: pairs ``(left_x, right_x)``, which change places in a mirrored
        image. Empty when no category has keypoints.

    Raises:
        ValueError: names are no list of different words, those of two categories differ, or a side lacks the other.
    """
    lists = {category["name"]: category["keypoints"] for category in categories if category.get("keypoints")}
    if not lists:
        return {}
    first, names = next(iter(lists.items()))
    for other, found in lists.items():
        if found != names:
            raise ValueError(
                f"data set {name}: the categories {first} and {other} have different keypoints, but a detector predicts"
                " the same for all; split them into two files"
            )
    if not isinstance(names, list) or not all(isinstance(word, str) for word in names) or len(set(names)) < len(names):
        raise ValueError(
            f"data set {name}: the keypoints of {first} must be a list of different names, found {names!r}"
        )
    mirrored = {word: _mirror(word) for word in names}
    if alone := [word for word, other in mirrored.items() if other not in mirrored]:
        raise ValueError(
            f"data set {name}: the keypoints {', '.join(alone)} of {first} have no counterpart {LEFT}… or {RIGHT}…, so"
            " mirrored images would teach wrong sides"
        )
    return {
        "keypoint_names": names,
        "keypoint_flip_map": [(word, mirrored[word]) for word in names if word.startswith(LEFT)],
    }


def _mirror(word: str) -> str:
    for side, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        if word.startswith(side):
            return other + word.removeprefix(side)
    return word

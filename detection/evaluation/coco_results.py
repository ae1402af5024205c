"""Reads saved predictions in COCO's result format, with errors that identify the prediction and the fault."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE

from mocodet.common import files
from mocodet.common.checkpoint import load_torch_file
from mocodet.common.formats.coco_values import Id
from mocodet.common.text import first_few

from .things import Thing

logger = logging.getLogger(__name__)

RESULTS = "coco_instances_results.json"
FILES = (RESULTS, "instances_predictions.pth")  # detectron2's file names
SHAPES = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # the shape that is compared in each task
# Run lengths in groups of five bits. A character from "P" on announces another group, which the libraries do not
# verify.
COUNTS = re.compile(rb"([P-o]{0,5}[0-O])+")


def predicted_tasks(cfg: CfgNode) -> tuple[str, ...]:
    """Return the COCO tasks for which a config's model makes predictions."""
    # Not inferred from the predictions, because masks would silently not be evaluated if there were no predictions.
    return "bbox", *(["segm"] if cfg.MODEL.MASK_ON else []), *(["keypoints"] if cfg.MODEL.KEYPOINT_ON else [])


def read_results(
    path: str | Path, dataset: Mapping[str, Any], names: Sequence[str] = FILES, left_out: Collection[Id] = ()
) -> list[dict[str, Any]]:
    """Read predictions and check each one against the data set.

    Args:
        path: a JSON file in COCO's result format, ``instances_predictions.pth``, or a folder that contains one of them.
        dataset: the contents of the annotation file, with the categories in the order of the model's classes.
        names: the file names to search for in a folder.
        left_out: ids of categories that are not evaluated; their predictions are ignored.

    Returns:
        the predictions, with the data set's category ids.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a prediction is malformed (https://cocodataset.org/#format-results), is not finite, or refers to an
            image or a category that is not in the data set.
    """
    path = find_file(path, *names)
    results = _read_pth(path, dataset) if path.suffix == ".pth" else read_json(path, list_of="predictions")
    images = {image["id"]: image for image in dataset["images"]}
    categories = {category["id"] for category in dataset["categories"]}.union(left_out)
    kinds = [kind for kind in SHAPES.values() if any(isinstance(result, dict) and kind in result for result in results)]
    for place, result in enumerate(results):
        if fault := _fault(result, kinds, images, categories):
            raise ValueError(f"{path}: prediction {place} {fault}")
    if passed_over := sum(result["category_id"] in left_out for result in results):
        logger.info(f"{path}: ignoring {passed_over:,} predictions of classes that are not in CLASSES")
        results = [result for result in results if result["category_id"] not in left_out]
    seen = {result["image_id"] for result in results}
    logger.info(f"{path} contains {len(results)} predictions for {len(seen)} of the {len(images)} images")
    return results


def read_things(
    path: Path, dataset: Mapping[str, Any], names: Sequence[str] = FILES, left_out: Collection[Id] = ()
) -> dict[str, list[Thing]]:
    """Read predictions as `Thing` objects for drawing, by image id; see `read_results` for arguments and errors."""
    indices = {category["id"]: index for index, category in enumerate(dataset["categories"])}
    things = defaultdict(list)
    for result in read_results(path, dataset, names, left_out):
        things[str(result["image_id"])].append(as_thing(result, indices[result["category_id"]]))
    return things


def as_thing(result: Mapping[str, Any], index: int) -> Thing:
    """Convert a prediction in COCO's result format to a `Thing` of the class with the given index."""
    keypoints = np.reshape(result["keypoints"], (-1, 3)).astype(float) if "keypoints" in result else None
    if keypoints is not None:
        keypoints[:, :2] += 0.5  # COCO's are pixel indices, whereas detectron2's are points
    box = result.get("bbox")
    return Thing(
        category=index,
        box=None if box is None else BoxMode.convert(list(box), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        score=result["score"],
        mask=result.get("segmentation"),
        keypoints=keypoints,
    )


def choose_tasks(
    path: str | Path,
    results: Sequence[Mapping[str, Any]],
    wanted: Sequence[str] | None,
    possible: Sequence[str] = tuple(SHAPES),
) -> Sequence[str]:
    """Return the tasks to evaluate: the requested tasks, or else all tasks whose shapes the predictions contain.

    Args:
        path: source of the predictions, used in messages.
        results: the predictions, as returned by `read_results`.
        wanted: the requested tasks; if None or empty, the predictions determine the tasks.
        possible: the tasks that the data set's metrics support.

    Raises:
        ValueError: the metrics do not support a task, or the predictions lack the shape that a requested task compares.
    """
    found = [task for task, shape in SHAPES.items() if results and shape in results[0]]
    tasks = wanted or found or ["bbox"]
    if unknown := [task for task in tasks if task not in possible]:
        raise ValueError(
            f"the data set's metrics support {' and '.join(possible)}, but not {', '.join(unknown)}; select the tasks"
            " with --tasks"
        )
    if lacking := [task for task in tasks if results and task not in found]:
        raise ValueError(
            f"{path} has no {', '.join(SHAPES[task] for task in lacking)}, which the task {lacking[0]} requires"
        )
    return tasks


def find_file(path: str | Path, *names: str) -> Path:
    """Return ``path`` if it is a file, or the first of ``names`` that exists in it if it is a folder.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} contains {'neither ' if len(names) > 1 else 'no '}{' nor '.join(names)}")
    if not path.is_file():
        raise FileNotFoundError(f"the predictions file {path} does not exist")
    return path


def read_json(path: str | Path, list_of: str = "") -> Any:
    """Read a JSON file; if ``list_of`` is set, the file must contain a list of elements with that name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not valid JSON, or does not contain a list.
    """
    content = files.read_json(path)
    if list_of and not isinstance(content, list):
        raise ValueError(f"{path} must contain a list of {list_of}, found a {type(content).__name__}")
    return content


def _read_pth(path: Path, dataset: Mapping[str, Any]) -> list[Any]:
    """Flatten detectron2's list of images into predictions, and replace class indices with category ids."""
    images = load_torch_file(path)
    if not isinstance(images, list) or not all(
        isinstance(i, dict) and {"image_id", "instances"} <= i.keys() for i in images
    ):
        raise ValueError(f"{path} must contain a list of images with image_id and instances, as saved by detectron2")
    missing = {image["id"] for image in dataset["images"]} - {image["image_id"] for image in images}
    if missing:
        raise ValueError(
            f"{path} is incomplete: {len(missing)} of the {len(dataset['images'])} images were not evaluated, such as"
            f" {first_few(sorted(map(str, missing)))}"
        )
    ids = [category["id"] for category in dataset["categories"]]
    results = [dict(result) for image in images for result in image["instances"]]
    for result in results:
        if not 0 <= result["category_id"] < len(ids):
            raise ValueError(
                f"{path} contains predictions of class {result['category_id']}, but the data set has only {len(ids)}"
                " classes"
            )
        result["category_id"] = ids[result["category_id"]]
    return results


def _fault(result: Any, kinds: Sequence[str], images: Mapping[Any, Any], categories: set[Id]) -> str | None:
    """Describe what is wrong with a prediction, if anything; all predictions must have the shapes in ``kinds``."""
    if not isinstance(result, dict):
        return f"must be a mapping, found {_shown(result)}"
    missing = [key for key in ("image_id", "category_id", "score", *kinds) if key not in result]
    if missing or not kinds:
        return f"lacks {', '.join(missing) or 'a shape: ' + ' or '.join(SHAPES.values())}"
    if not isinstance(result["image_id"], (int, str)) or result["image_id"] not in images:
        return f"refers to image {_shown(result['image_id'])}, which is not in the data set"
    if not isinstance(result["category_id"], (int, str)) or result["category_id"] not in categories:
        return f"refers to category {_shown(result['category_id'])}, which is not in the data set"
    if not _is_finite(result["score"]):
        return f"has the score {_shown(result['score'])}, which is not a finite number"
    if "bbox" in kinds and not (_are_finite(box := result["bbox"]) and len(box) == 4 and min(box[2:]) >= 0):
        return f"has the box {_shown(box)}; expected finite numbers x, y, width, height"
    if "keypoints" in kinds and not (_are_finite(points := result["keypoints"]) and points and len(points) % 3 == 0):
        return "has malformed keypoints; expected finite numbers x, y, score for each"
    if "segmentation" in kinds:
        image = images[result["image_id"]]
        return mask_fault(result["segmentation"], [image.get("height"), image.get("width")])
    return None


def _are_finite(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(map(_is_finite, values))


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that exceeds the largest float
        return False


def _shown(value: Any) -> str:
    """Format a value for a message. Text, such as a file name, stays whole; other values may be very long or nested."""
    return repr(value) if isinstance(value, str) else brief(value)


def mask_fault(mask: Any, size: Sequence[int]) -> str | None:
    """Describe what is wrong with a compressed run-length encoded mask of ``size`` (height, width), if anything.

    The libraries decode masks without checks, and write out of bounds if the run lengths are wrong.
    """
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), (str, bytes)):
        return "has a mask that is not in compressed run-length encoding with size and counts"
    if list(mask.get("size", ())) != list(size):
        return f"has a mask of size {mask.get('size')} in an image of size {list(size)} (height, width)"
    text = mask["counts"].encode() if isinstance(mask["counts"], str) else mask["counts"]
    try:
        runs = toUncompressedRLE([{"size": list(size), "counts": text}])[0]["counts"] if COUNTS.fullmatch(text) else ()
    except (ValueError, TypeError, RuntimeError):  # some versions check the sum, and all check the type of the size
        runs = ()
    if sum(runs) != size[0] * size[1] or not runs:
        return f"has a mask whose run lengths do not add up to its {size[0]} x {size[1]} pixels"
    return None

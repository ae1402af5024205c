"""What COCO's metrics need of the annotations, checked so that nothing is passed over or fails after the training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.coco import refuse_lvis

COCO_KEYPOINTS = 17  # how many spreads the metric's definition gives, for a person's keypoints


def check_coco_ground_truth(json_file: str, tasks: Sequence[str], kpt_oks_sigmas: Sequence[float]) -> None:
    """Check an annotation file for every task that a run will evaluate.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON of annotations, or see ``check_annotations`` and ``check_sigmas``.
    """
    try:
        dataset = json.loads(Path(json_file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{json_file} is not JSON: {error}") from error
    for task in tasks:
        check_annotations(json_file, dataset, task)
        if task == "keypoints":
            check_sigmas(dataset, kpt_oks_sigmas)


def check_annotations(json_file: str, dataset: Mapping[str, Any], task: str) -> None:
    """Check that annotations in COCO's format have what a task needs.

    Args:
        json_file: where they are from, for messages.
        dataset: the content of the JSON file.
        task: ``bbox``, ``segm`` or ``keypoints``.

    Raises:
        ValueError: an image's id is no whole number, an annotation lacks something, there is none to find, or they are
            LVIS's.
    """
    if not isinstance(dataset, dict) or not {"images", "annotations", "categories"} <= dataset.keys():
        raise ValueError(f"{json_file} lacks images, annotations or categories: predictions cannot be compared with it")
    refuse_lvis(json_file, dataset["images"])
    for image in dataset["images"]:
        if type(image["id"]) is not int:
            raise ValueError(f"{json_file}: the id of an image must be a whole number, found {image['id']!r}")
    wanted = {"bbox": {"bbox"}, "segm": {"segmentation"}, "keypoints": {"bbox", "keypoints", "num_keypoints"}}[task]
    for annotation in dataset["annotations"]:
        if missing := (wanted | {"area"}) - annotation.keys():
            raise ValueError(
                f"{json_file}: annotation {annotation.get('id')} of image {annotation.get('image_id')} lacks"
                f" {', '.join(sorted(missing))}, which the metrics for {task} need"
            )
    if not any(_is_to_be_found(annotation, task) for annotation in dataset["annotations"]):
        raise ValueError(
            f"{json_file} has no ground truth for {task} to evaluate on: none of its {len(dataset['annotations'])}"
            f" annotations is {'a single object with keypoints' if task == 'keypoints' else 'a single object'}"
        )


def check_sigmas(
    dataset: Mapping[str, Any], sigmas: Sequence[float], predictions: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Check that there is a spread for each keypoint, in the annotations and in the predictions.

    Args:
        dataset: the content of a JSON file that ``check_annotations`` has passed.
        sigmas: ``TEST.KEYPOINT_OKS_SIGMAS``; empty means COCO's 17.
        predictions: in COCO's result format.

    Raises:
        ValueError: the numbers differ.
    """
    wanted = len(sigmas) or COCO_KEYPOINTS
    source = "TEST.KEYPOINT_OKS_SIGMAS" if sigmas else "empty TEST.KEYPOINT_OKS_SIGMAS, which means COCO's"
    for kind, rows in (("annotation", dataset["annotations"]), ("prediction", predictions)):
        for row in rows:
            if len(row["keypoints"]) != 3 * wanted:
                raise ValueError(
                    f"the metrics take the spreads of {wanted} keypoints ({source}),"
                    f" but the {kind} {row.get('id', '')} of image {row['image_id']} has {len(row['keypoints']) / 3:g}"
                    " keypoints; give one spread for each"
                )


def _is_to_be_found(annotation: Mapping[str, Any], task: str) -> bool:
    return not annotation.get("iscrowd", 0) and (task != "keypoints" or annotation["num_keypoints"] > 0)

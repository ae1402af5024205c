"""Saved maps of classes, as ``SemSegEvaluator`` leaves them: read, and evaluated again."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from mocodet.common.text import first_few

from .coco_results import mask_fault
from .semseg import MeanIoUEvaluator

RESULTS = "sem_seg_predictions.json"


# The index of a class and its pixels in an image: run-length encoded as COCO's, with its size, [height, width].
Region = tuple[int, dict[str, Any]]


def read_regions(path: str | Path, metadata: Metadata, files: Collection[str]) -> dict[str, list[Region]]:
    """Read a ``sem_seg_predictions.json``, or the folder that holds one, and check each region.

    Args:
        path: the file or the folder.
        metadata: of the data set; its ``stuff_classes``, or the ids that it gives them, are the categories.
        files: the images of the data set, each by its ``file_name``.

    Returns:
        the regions of each image that has any, by its ``file_name``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed, or a region is of another image or class than the data set has.
    """
    path = Path(path, RESULTS) if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of predictions {path}")
    try:
        regions = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(regions, list):
        raise ValueError(f"{path} must hold a list of regions, found a {type(regions).__name__}")
    known = set(files)
    indices = metadata.get("stuff_dataset_id_to_contiguous_id") or {i: i for i in range(len(metadata.stuff_classes))}
    by_file: dict[str, list[Region]] = defaultdict(list)
    for place, region in enumerate(regions):
        if fault := _region_fault(region, known, indices):
            raise ValueError(f"{path}: region {place} {fault}")
        by_file[region["file_name"]].append((indices[region["category_id"]], region["segmentation"]))
    return by_file


def evaluate_saved_maps(dataset_name: str, path: str | Path) -> tuple[OrderedDict[str, dict[str, float]], int]:
    """Evaluate a ``sem_seg_predictions.json``, or the folder that holds one: (results, number of images).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed, lacks an image of the data set or has another, or a map is not whole.
    """
    metadata = MetadataCatalog.get(dataset_name)
    files = [record["file_name"] for record in DatasetCatalog.get(dataset_name)]
    regions = read_regions(path, metadata, files)
    if missing := [file for file in files if file not in regions]:
        raise ValueError(
            f"{path} has maps of {len(regions)} images, data set {dataset_name} has {len(files)}; there is none of"
            f" {first_few(missing)}"
        )
    num_classes = len(metadata.stuff_classes)
    evaluator = MeanIoUEvaluator(dataset_name)
    evaluator.reset()
    for file in files:
        try:
            labels = _assemble(regions[file])
        except ValueError as error:
            raise ValueError(f"{path}: the map of {file} is malformed: {error}") from error
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), num_classes).permute(2, 0, 1)
        evaluator.process([{"file_name": file}], [{"sem_seg": scores}])
    return evaluator.evaluate(), len(files)


def _region_fault(region: Any, files: Collection[str], indices: Mapping[int, int]) -> str | None:
    """Say what is wrong with one region, if anything."""
    if not isinstance(region, dict) or not {"file_name", "category_id", "segmentation"} <= region.keys():
        return "must be a mapping with file_name, category_id and segmentation"
    if not isinstance(region["file_name"], str) or region["file_name"] not in files:
        return f"is of image {region['file_name']!r}, which the data set does not have"
    if not isinstance(region["category_id"], int) or region["category_id"] not in indices:
        return f"is of category {region['category_id']!r}, which the data set does not have"
    mask = region["segmentation"]
    size = mask.get("size") if isinstance(mask, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        return "has a mask without a size, [height, width]"
    return mask_fault(mask, size)


def _assemble(regions: Sequence[Region]) -> np.ndarray:
    """Put the regions of an image together: H x W indices of classes, each pixel in exactly one."""
    size = regions[0][1]["size"]
    labels, covered = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for index, mask in regions:
        if mask["size"] != size:
            raise ValueError(f"it has masks of the sizes {size} and {mask['size']}")
        pixels = mask_util.decode(mask).astype(bool)
        labels[pixels] = index
        covered += pixels
    if (covered != 1).any():
        raise ValueError(f"{np.count_nonzero(covered != 1)} pixels are of no class or of several")
    return labels

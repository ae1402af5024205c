"""Saved maps of classes, as ``SemSegEvaluator`` leaves them, evaluated again."""

import json
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mocodet.common.text import first_few

from .coco_results import mask_fault
from .semseg import MeanIoUEvaluator

RESULTS = "sem_seg_predictions.json"


def evaluate_saved_maps(dataset_name: str, path: str | Path) -> tuple[OrderedDict[str, dict[str, float]], int]:
    """Evaluate a ``sem_seg_predictions.json``, or the folder that holds one: (results, number of images).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is malformed, lacks an image of the data set or has one too many, or a map is not whole.
    """
    path = Path(path, RESULTS) if Path(path).is_dir() else Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        by_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for part in found:
            by_file[part["file_name"]].append(part)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a list of parts with file_name, category_id and segmentation") from error
    files = [record["file_name"] for record in DatasetCatalog.get(dataset_name)]
    if different := sorted(set(files) ^ set(by_file)):
        raise ValueError(
            f"{path} has maps of {len(by_file)} images, data set {dataset_name} has {len(files)}; not of both are"
            f" {first_few(different)}"
        )
    evaluator = MeanIoUEvaluator(dataset_name)
    evaluator.reset()
    num_classes = len(MetadataCatalog.get(dataset_name).stuff_classes)
    for file in files:
        try:
            labels = _assemble(by_file[file], num_classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: the map of {file} is malformed: {error}") from error
        scores = torch.nn.functional.one_hot(torch.from_numpy(labels), num_classes).permute(2, 0, 1)
        evaluator.process([{"file_name": file}], [{"sem_seg": scores}])
    return evaluator.evaluate(), len(files)


def _assemble(parts: list[dict[str, Any]], num_classes: int) -> np.ndarray:
    """Put the masks of an image's classes together: H x W indices, each pixel in exactly one."""
    size = parts[0]["segmentation"]["size"]
    labels, covered = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for part in parts:
        if part["category_id"] not in range(num_classes):
            raise ValueError(f"there is no class {part['category_id']!r} among {num_classes}")
        if fault := mask_fault(part["segmentation"], size):
            raise ValueError(f"class {part['category_id']} {fault}")
        mask = mask_util.decode(part["segmentation"]).astype(bool)
        labels[mask] = part["category_id"]
        covered += mask
    if (covered != 1).any():
        raise ValueError(f"{np.count_nonzero(covered != 1)} pixels are of no class or of several")
    return labels

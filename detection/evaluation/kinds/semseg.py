"""Mean intersection over union (IoU) for semantic segmentation, overall and for each class."""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm

from mocodet.common.formats.labels import check_same_size, read_labels
from mocodet.common.text import first_few

from ..coco_results import find_file, mask_fault, read_json
from ..complete import format_results
from ..things import Thing, image_key
from . import EvaluationKind, Results, register_kind
from .cityscapes import check_cityscapes_files

logger = logging.getLogger(__name__)

RESULTS = "sem_seg_predictions.json"  # detectron2's file name
CITYSCAPES_ANNOTATIONS = ("_gtFine_polygons.json", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")

# A class index and the pixels of the class in an image, in COCO run-length encoding with the size [height, width].
Region = tuple[int, dict[str, Any]]


class MeanIoUEvaluator(SemSegEvaluator):
    """detectron2's ``SemSegEvaluator``, except that it reads labels as indices, checks them and reports each class.

    The IoU of a class is TP / (TP + FP + FN) over the labelled pixels of all images together, as defined by Pascal VOC
    and Cityscapes. Pixels with the ignored label never count. As in detectron2, every mean excludes classes without
    labelled pixels, and a warning lists them. Boundary IoU, which detectron2 adds, is not computed, because neither
    data set's protocol includes it.

    Args:
        dataset_name: a data set whose metadata has ``stuff_classes`` and ``ignore_label``.
        output_dir: folder for ``sem_seg_predictions.json`` (COCO run-length encoding). If None, nothing is written.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        super().__init__(dataset_name, output_dir=output_dir)
        self._compute_boundary_iou = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of each image by predicted and true class.

        Args:
            inputs: records with ``file_name``.
            outputs: for each record, ``sem_seg``: scores (classes x H x W) at the size of the labels.

        Raises:
            ValueError: the labels cannot be read, contain a value that is not a class, or have a different size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()  # H x W
            self._count(record["file_name"], predicted)
            if self._output_dir:
                self._predictions.extend(self.encode_json_sem_seg(predicted, record["file_name"]))

    def _count(self, image: str, predicted: np.ndarray) -> None:
        file, side = self.input_file_to_gt_file[image], self._num_classes + 1
        values = MetadataCatalog.get(self._dataset_name).get("label_values", ())
        truth = read_labels(file, self._num_classes, self._ignore_label, values).astype(np.int64)
        check_same_size(file, truth.shape, image, predicted.shape)
        truth[truth == self._ignore_label] = self._num_classes
        counts = np.bincount((side * predicted + truth).ravel(), minlength=side * side)
        self._conf_matrix += counts.reshape(side, side)  # predicted x true; the last true class is ignored

    def evaluate(self) -> Results | None:
        """Return ``{"sem_seg": {...}}`` in per cent on the main process.

        The metrics are ``mIoU``; ``fwIoU``, weighted by the number of pixels of each class; ``pACC``, the fraction of
        correct pixels; ``mACC``, the mean of that fraction over the classes; and ``IoU-<class>`` and ``ACC-<class>``.

        Raises:
            RuntimeError: no pixels are labelled.
        """
        with np.errstate(invalid="ignore"):  # 0 / 0, without labelled pixels, raises an error below
            results = super().evaluate()
        if not comm.is_main_process():
            return None
        metrics = results["sem_seg"]
        if np.isnan(metrics["pACC"]):
            raise RuntimeError(f"{self._dataset_name} has no labelled pixels to evaluate on")
        absent = [name for name in self._class_names if np.isnan(metrics[f"IoU-{name}"])]
        if absent:
            logger.warning(
                f"No ground truth in {self._dataset_name} for classes that are excluded from the mean IoU:"
                f" {', '.join(absent)}"
            )
        left_out = {f"{metric}-{name}" for metric in ("IoU", "ACC") for name in absent}
        metrics = {name: float(value) for name, value in metrics.items() if name not in left_out}
        results = OrderedDict(sem_seg=metrics)
        pixels = zip(self._class_names, self._conf_matrix[:-1, :-1].sum(axis=0).tolist(), strict=True)
        table = format_results(results, {name: {"pixels": count} for name, count in pixels})
        logger.info(f"Results on {self._dataset_name}, {table}")
        return results

    def evaluate_saved(self, path: str | Path) -> tuple[Results, int]:
        """Evaluate ``sem_seg_predictions.json``; see `EvaluationKind`. Each class map counts as one prediction.

        Raises:
            ValueError: also if an image has no class map, or a class map is incomplete.
        """
        files = self.input_file_to_gt_file
        regions = read_regions(path, MetadataCatalog.get(self._dataset_name), files)
        if missing := [file for file in files if file not in regions]:
            raise ValueError(
                f"{path} contains class maps of {len(regions)} images, but data set {self._dataset_name} has"
                f" {len(files)}; the class maps of {first_few(missing)} are missing"
            )
        self.reset()
        for file in files:
            try:
                predicted = _assemble(regions[file])
            except ValueError as error:
                raise ValueError(f"{path}: the class map of {file} is malformed: {error}") from error
            self._count(file, predicted)
        return self.evaluate() or OrderedDict(), len(files)


def read_regions(path: str | Path, metadata: Metadata, files: Collection[str]) -> dict[str, list[Region]]:
    """Read and check the regions of each image, by ``file_name``. Images without regions are omitted.

    Args:
        path: ``sem_seg_predictions.json``, or the folder that contains it.
        metadata: the metadata of the data set, in which ``stuff_classes``, or their ids, are the categories.
        files: the ``file_name`` of each image of the data set, in a collection with fast lookup.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is malformed, or a region refers to an image or class that is not in the data set.
    """
    path = find_file(path, RESULTS)
    indices = metadata.get("stuff_dataset_id_to_contiguous_id") or {i: i for i in range(len(metadata.stuff_classes))}
    by_file: dict[str, list[Region]] = defaultdict(list)
    for place, region in enumerate(read_json(path, list_of="regions")):
        if fault := _region_fault(region, files, indices):
            raise ValueError(f"{path}: region {place} {fault}")
        by_file[region["file_name"]].append((indices[region["category_id"]], region["segmentation"]))
    return by_file


def _region_fault(region: Any, files: Collection[str], indices: Mapping[int, int]) -> str | None:
    """Describe what is wrong with a region, if anything."""
    if not isinstance(region, dict) or not {"file_name", "category_id", "segmentation"} <= region.keys():
        return "must be a mapping with file_name, category_id and segmentation"
    if not isinstance(region["file_name"], str) or region["file_name"] not in files:
        return f"refers to image {region['file_name']!r}, which is not in the data set"
    if not isinstance(region["category_id"], int) or region["category_id"] not in indices:
        return f"refers to category {region['category_id']!r}, which is not in the data set"
    mask = region["segmentation"]
    size = mask.get("size") if isinstance(mask, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        return "has a mask without a size ([height, width])"
    return mask_fault(mask, size)


def _assemble(regions: Sequence[Region]) -> np.ndarray:
    """Combine the regions of an image into H x W class indices; each pixel must be in exactly one region."""
    size = regions[0][1]["size"]
    labels, covered = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for index, mask in regions:
        if mask["size"] != size:
            raise ValueError(f"it has masks of sizes {size} and {mask['size']}")
        pixels = mask_util.decode(mask).astype(bool)
        labels[pixels] = index
        covered += pixels
    if (covered != 1).any():
        raise ValueError(f"{np.count_nonzero(covered != 1)} pixels have no class or more than one")
    return labels


def _read(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    keys = {record["file_name"]: image_key(record) for record in records}
    regions = read_regions(path, metadata, keys)
    return {keys[file]: [Thing(index, mask=mask) for index, mask in found] for file, found in regions.items()}


for _evaluator_type, _check_files in (
    ("sem_seg", DatasetCatalog.get),  # checks that the list and each file exist
    # Cityscapes' 19 classes by training index, with the IoU of its script.
    ("cityscapes_sem_seg", partial(check_cityscapes_files, endings=CITYSCAPES_ANNOTATIONS)),
):
    register_kind(
        EvaluationKind(
            _evaluator_type,
            build=lambda cfg, name, tasks, output: MeanIoUEvaluator(name, output),
            check_files=_check_files,
            evaluate_saved=MeanIoUEvaluator.evaluate_saved,
            read=_read,
            has_label_images=True,
        )
    )

"""COCO's metrics with faster-coco-eval, which equal those of pycocotools, without detectron2's compiled extension."""

import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pycocotools.coco
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCO, COCOeval_faster

from mocodet.common.files import atomic_open
from mocodet.common.formats.coco import Coco, choose_classes, choose_images, order_categories, read_coco
from mocodet.common.formats.coco_objects import name_of
from mocodet.common.formats.findings import refuse_errors
from mocodet.common.matches import Matches

from ..coco_matches import Rows, coco_matches
from ..coco_results import RESULTS, SHAPES, choose_tasks, predicted_tasks, read_results, read_things
from ..things import Thing
from . import EvaluationKind, Results, register_kind

logger = logging.getLogger(__name__)

COCO_KEYPOINTS = 17  # number of a person's keypoints for which the metric defines spreads


class FasterCOCOEvaluator(COCOEvaluator):
    """detectron2's ``COCOEvaluator`` with faster-coco-eval, which takes seconds instead of pycocotools' minutes.

    The results equal those of pycocotools except in two cases. An object whose annotation has the id 0 can be found
    like any other, whereas pycocotools uses 0 for unmatched objects. A model that finds nothing gets the metrics of an
    empty set of detections, whereas pycocotools fails. Annotations are read as in training (`read_truth`). Predictions
    are saved with the file's image and category ids, even if these are strings.

    Args:
        dataset_name: a data set whose metadata has ``json_file``.
        tasks: a subset of ``bbox``, ``segm`` and ``keypoints``; None selects those that the predictions contain.
        output_dir: folder for ``coco_instances_results.json`` and ``instances_predictions.pth``. If None, nothing is
            written.
        options: ``max_dets_per_image``: number of highest-scoring detections per image that count for boxes and masks
            (default 100); ``kpt_oks_sigmas``: spread of each keypoint in object keypoint similarity (default: COCO's
            17).

    Raises:
        FileNotFoundError: the annotation file does not exist.
        ValueError: the annotation file is not in COCO format.
    """

    def __init__(
        self, dataset_name: str, tasks: Sequence[str] | None = None, output_dir: str | None = None, **options: Any
    ):
        self._truth: Coco
        try:
            with mock.patch.object(coco_evaluation, "COCO", self._read):
                super().__init__(dataset_name, tasks=tasks, output_dir=output_dir, **options)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"data set {dataset_name}: the annotation file {error.filename} does not exist; detectron2's own data"
                " sets must be in the folder given by the environment variable DETECTRON2_DATASETS"
            ) from error
        self._dataset_name = dataset_name
        self.reset()

    def _read(self, json_file: str) -> pycocotools.coco.COCO:
        """Read the annotations, replacing pycocotools' reader."""
        self._truth = read_truth(self._metadata)
        if self._truth.is_annotated:
            refuse_errors(self._metadata.name, self._truth.findings)
        api = pycocotools.coco.COCO()
        api.dataset = self._truth.content()
        if not self._truth.is_annotated:
            del api.dataset["annotations"]
        api.createIndex()
        return api

    def reset(self) -> None:
        """Clear the recorded predictions and their last evaluation."""
        super().reset()
        self._evaluations: dict[str, COCOeval_faster] = {}  # by task

    def matches(self) -> dict[str, Matches]:
        """Return which detections were correct in the last evaluation on this process; see `EvaluationKind`."""
        found = {}
        for task, evaluation in self._evaluations.items():
            images = [str(self._truth.images[number - 1]["id"]) for number in evaluation.params.imgIds]
            found[task] = replace(coco_matches(evaluation), images=np.array(images, dtype=str))
        return found

    def evaluate_saved(self, path: str | Path) -> tuple[Results, int]:
        """Evaluate a file in COCO's result format or ``instances_predictions.pth``; see `EvaluationKind`.

        Raises:
            ValueError: also if the data set has no annotations.
        """
        if not self._do_evaluation:
            raise ValueError(
                f"{self._metadata.json_file} contains no annotations, like the file of COCO's test images; specify a"
                " file that contains annotations"
            )
        results = read_results(path, self._coco_api.dataset, left_out=[row["id"] for row in self._truth.left_out])
        self._results: Results = OrderedDict()
        self._evaluate_results(results, choose_tasks(path, results, self._tasks))
        return self._results, len(results)

    def _eval_predictions(self, predictions: Rows, img_ids: Sequence[int] | None = None) -> None:
        """Evaluate the predictions of all processes; overrides detectron2's method, which hard-codes its library."""
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        self._restore_category_ids(results)
        if self._output_dir:
            with atomic_open(Path(self._output_dir, RESULTS), "w") as handle:
                json.dump(results, handle)
        if not self._do_evaluation:
            logger.info(
                f"{self._metadata.json_file} contains no annotations, so the predictions are saved but not evaluated"
            )
            return
        self._evaluate_results(results, self._tasks or self._tasks_from_predictions(results), img_ids)

    def _restore_category_ids(self, results: Sequence[dict[str, Any]]) -> None:
        """Replace the model's class indices with the category ids of the JSON file."""
        ids = [category["id"] for category in self._truth.categories]
        for result in results:
            if not 0 <= result["category_id"] < len(ids):
                raise ValueError(
                    f"the model predicts class {result['category_id']}, but {self._dataset_name} has only {len(ids)}"
                    " classes, numbered from 0"
                )
            result["category_id"] = ids[result["category_id"]]

    def _evaluate_results(self, results: Rows, tasks: Sequence[str], img_ids: Sequence[int] | None = None) -> None:
        sigmas, most = self._kpt_oks_sigmas, self._max_dets_per_image
        images, categories = (
            {row["id"]: number for number, row in enumerate(rows, 1)}
            for rows in (self._truth.images, self._truth.categories)
        )
        numbered = [
            {**result, "image_id": images[result["image_id"]], "category_id": categories[result["category_id"]]}
            for result in results
        ]
        chosen = None if img_ids is None else [images[identity] for identity in img_ids]
        for task in sorted(tasks):
            check_annotations(self._truth, task, sigmas, results)
            evaluation = evaluate_task(self._ground_truth, numbered, task, sigmas, most, chosen)
            self._evaluations[task] = evaluation
            self._results[task] = self._derive_coco_results(evaluation, task, class_names=self._class_names)

    @property
    def _class_names(self) -> Sequence[str]:
        return self._metadata.get("thing_classes") or self._truth.classes

    @cached_property
    def _ground_truth(self) -> COCO:
        """A copy of the annotations, which the library modifies, numbered from 1, because it treats 0 as no object."""
        return COCO(self._truth.numbered())


def read_truth(metadata: Metadata) -> Coco:
    """Read a data set's annotations for the classes of its models, in the order of the classes.

    Args:
        metadata: the metadata of the data set, with ``json_file``, or with ``read_truth`` for another format.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the metadata lists a category or a class that is not in the file, or a split without images.
    """
    if read := metadata.get("read_truth"):
        return read()
    images = metadata.get("image_root")
    coco = read_coco(Path(PathManager.get_local_path(metadata.json_file)), Path(images) if images else None)
    indices = metadata.get("thing_dataset_id_to_contiguous_id")
    if indices:  # set once the data set has been loaded, and always for detectron2's own data sets
        coco = order_categories(coco, sorted(indices, key=indices.get))
    else:
        coco = choose_classes(coco, metadata.get("chosen_classes", ()))
    hold_out = metadata.get("hold_out")  # without it, a field named split may mean anything
    return choose_images(coco, metadata.split, hold_out) if hold_out else coco


def evaluate_task(
    truth: COCO,
    results: Rows,
    task: str,
    kpt_oks_sigmas: Sequence[float] = (),
    max_dets: Sequence[int] = (1, 10, 100),
    img_ids: Sequence[int] | None = None,
) -> COCOeval_faster:
    """Evaluate predictions in COCO's result format, as detectron2 does with pycocotools.

    Args:
        truth: the annotations, to which the library adds its matches.
        results: the predictions, which may be empty and are not modified.
        task: ``bbox``, ``segm`` or ``keypoints``.
        kpt_oks_sigmas: the spread of each keypoint; if empty, those of COCO's 17 keypoints.
        max_dets: the numbers of detections per image that count, of which AP uses the last; not used for keypoints.
        img_ids: the images to evaluate; None means all.

    Returns:
        the evaluation, with ``stats`` and ``eval["precision"]`` as in pycocotools: -1 if there is no ground truth.
    """
    # If masks had boxes, the library would use the box areas to distinguish small from large objects.
    left_out = {"bbox"} if task == "segm" else set()
    copies = [{key: value for key, value in result.items() if key not in left_out} for result in results]
    evaluation = COCOeval_faster(truth, truth.loadRes(copies), task, print_function=logger.debug)
    # Use all categories, which is not the library's default for keypoints.
    evaluation.params.catIds = sorted(truth.getCatIds())
    if task != "keypoints":
        evaluation.params.maxDets = list(max_dets)
    elif kpt_oks_sigmas:
        evaluation.params.kpt_oks_sigmas = np.array(kpt_oks_sigmas)
    if img_ids is not None:
        evaluation.params.imgIds = list(img_ids)
    evaluation.run()
    return evaluation


def check_coco_ground_truth(cfg: CfgNode, dataset_name: str) -> None:
    """Check a data set's annotation file for every task on which the model will be evaluated.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a JSON file of annotations, or see `check_annotations`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get("json_file"):  # detectron2 creates the file for data sets without one
        return
    coco = read_truth(metadata)
    refuse_errors(dataset_name, coco.findings)
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork" and any(type(image["id"]) is str for image in coco.images):
        raise ValueError(
            f"{coco.path}: detectron2 evaluates proposals only if image ids are integers; renumber the images"
        )
    for task in predicted_tasks(cfg):
        check_annotations(coco, task, cfg.TEST.KEYPOINT_OKS_SIGMAS)


def check_annotations(coco: Coco, task: str, sigmas: Sequence[float], predictions: Rows = ()) -> None:
    """Check that annotations contain what a task requires, and that each keypoint has a spread.

    Args:
        coco: the annotations.
        task: ``bbox``, ``segm`` or ``keypoints``.
        sigmas: ``TEST.KEYPOINT_OKS_SIGMAS``; if empty, those of COCO's 17 keypoints.
        predictions: predictions in COCO's result format, whose keypoints are counted as well.

    Raises:
        ValueError: an annotation lacks what the task requires, or there are no objects to find.
    """
    wanted = SHAPES[task]
    lacking = [annotation for annotation in coco.annotations if wanted not in annotation]
    if lacking:
        raise ValueError(
            f"{coco.path}: {len(lacking)} of {len(coco.annotations)} annotations, such as {name_of(lacking[0])}, have"
            f" no {wanted}, which the metrics for {task} require"
        )
    if task == "segm" and (bare := [image["id"] for image in coco.images if "width" not in image]):
        raise ValueError(
            f"{coco.path}: {len(bare)} images, such as {bare[0]}, lack width and height, which masks require"
        )
    if task == "keypoints":
        _check_sigmas(sigmas, {"annotation": coco.annotations, "prediction": predictions})
    single = [annotation for annotation in coco.annotations if not annotation["iscrowd"]]
    if not any(task != "keypoints" or annotation["num_keypoints"] > 0 for annotation in single):
        raise ValueError(
            f"{coco.path} has no ground truth for {task}: none of its {len(coco.annotations)} annotations is"
            f" {'a single object with keypoints' if task == 'keypoints' else 'a single object'}"
        )


def _check_sigmas(sigmas: Sequence[float], rows: Mapping[str, Rows]) -> None:
    wanted = len(sigmas) or COCO_KEYPOINTS
    source = "TEST.KEYPOINT_OKS_SIGMAS" if sigmas else "empty TEST.KEYPOINT_OKS_SIGMAS, which means COCO's"
    for kind, row in ((kind, row) for kind, of_kind in rows.items() for row in of_kind):
        if len(row["keypoints"]) != 3 * wanted:
            raise ValueError(
                f"the metrics define the spreads of {wanted} keypoints ({source}), but the {kind} {row.get('id', '')}"
                f" of image {row['image_id']} has {len(row['keypoints']) / 3:g} keypoints; specify one spread for each"
                " keypoint"
            )


def _read_things(path: Path, truth: Coco) -> dict[str, list[Thing]]:
    return read_things(path, truth.content(), left_out=[row["id"] for row in truth.left_out])


register_kind(
    EvaluationKind(
        "coco",
        build=lambda cfg, name, tasks, output: FasterCOCOEvaluator(
            name, tasks, output, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS
        ),
        check=check_coco_ground_truth,
        evaluate_saved=FasterCOCOEvaluator.evaluate_saved,
        matches=FasterCOCOEvaluator.matches,
        read=lambda path, metadata, records: _read_things(path, read_truth(metadata)),
        tasks=tuple(SHAPES),
    )
)

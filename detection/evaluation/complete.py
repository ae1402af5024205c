"""Returns the results of a complete evaluation, or raises an error that reports what is missing."""

import itertools
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from mocodet.common.files import write_json

logger = logging.getLogger(__name__)

# The metrics that studies compare: AP for boxes, masks and keypoints, and mean IoU for semantic segmentation.
HEADLINES = ("AP", "AP50", "AP75", "mIoU")


class CompleteEvaluator(DatasetEvaluator):
    """Wraps an evaluator and rejects incomplete or undefined results that the evaluator would accept.

    * Every image of the data set must be evaluated exactly once across all processes. Images are identified by
      ``image_id``, or by ``file_name`` if the data set has no ids.
    * A detector that finds nothing scores 0, with a warning. In detectron2, its COCO metrics are nan.
    * ``AP``, ``AP50``, ``AP75`` and ``mIoU`` must be finite. Finer metrics may be nan if there is no ground truth of
      that size or class; a warning lists them.

    Args:
        evaluator: the evaluator of the data set.
        dataset_name: the name of the data set.
        load: function that returns the records of a data set.
    """

    def __init__(
        self,
        evaluator: DatasetEvaluator,
        dataset_name: str,
        load: Callable[[str], list[dict[str, Any]]] = DatasetCatalog.get,
    ):
        self.evaluator = evaluator
        self._load = load
        self._dataset_name = dataset_name
        self.reset()

    def reset(self) -> None:
        """Clear the recorded images."""
        self._images: list[int | str] = []
        self._records: list[dict[str, Any]] = []  # of the data set; set by `evaluate` on the main process
        self._num_predictions = 0
        self.evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Pass a batch to the wrapped evaluator and record its images."""
        self._images.extend(_identity(image) for image in inputs)
        for output in outputs:  # any other output than objects, such as a class map or proposals, counts as one
            self._num_predictions += len(output["instances"]) if "instances" in output else 1
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return ``{task: {metric: value}}`` on the main process and None on the others; every process must call this.

        Raises:
            RuntimeError: images were not evaluated or evaluated twice, or a headline metric is not a number.
        """
        gathered = comm.gather((self._images, self._num_predictions), dst=0)
        # Check before running the evaluator, because its errors about missing images are less clear.
        if comm.is_main_process():
            self._check_images(list(itertools.chain.from_iterable(images for images, _ in gathered)))
        results = self.evaluator.evaluate()
        if not comm.is_main_process():
            return None
        return check_metrics(results, self._dataset_name, num_predictions=sum(count for _, count in gathered))

    def _check_images(self, seen: list[int | str]) -> None:
        self._records = self._load(self._dataset_name)
        expected = {_identity(record) for record in self._records}
        missing, repeated = expected - set(seen), len(seen) - len(set(seen))
        if not expected or missing or repeated:
            raise RuntimeError(
                f"evaluation on {self._dataset_name} is incomplete: of its {len(expected)} images, {len(missing)} were"
                f" not evaluated and {repeated} were evaluated more than once"
            )
        logger.info(f"Evaluated each of the {len(seen)} images of {self._dataset_name} exactly once")


def check_metrics(
    results: Mapping[str, Mapping[str, float]] | None, dataset_name: str, num_predictions: int
) -> OrderedDict[str, dict[str, float]]:
    """Return ``{task: {metric: value}}`` as plain numbers, which are 0 without predictions; see `CompleteEvaluator`.

    Raises:
        RuntimeError: there are no results, or a headline metric is not a number.
    """
    if not results:
        raise RuntimeError(f"evaluation on {dataset_name} returned no results; check that the data set has annotations")
    plain = OrderedDict((task, {name: float(v) for name, v in metrics.items()}) for task, metrics in results.items())
    if num_predictions == 0:
        logger.warning(
            f"The model predicted no objects on {dataset_name} (scores below MODEL.ROI_HEADS.SCORE_THRESH_TEST are"
            " discarded), so all metrics are reported as 0"
        )
        return OrderedDict((task, dict.fromkeys(metrics, 0.0)) for task, metrics in plain.items())
    for task, metrics in plain.items():
        undefined = [metric for metric, value in metrics.items() if not math.isfinite(value)]
        if headlines := [metric for metric in undefined if metric in HEADLINES]:
            raise RuntimeError(
                f"{task} {', '.join(headlines)} on {dataset_name} is not a number; check that the data set has ground"
                f" truth for {task}"
            )
        if undefined:
            logger.warning(
                f"No ground truth in {dataset_name} for some metrics of {task}, which are nan: {', '.join(undefined)}"
            )
    return plain


def format_results(
    results: Mapping[str, Mapping[str, float]], columns: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Format a table of each task's metrics and a table of its class metrics, which are named ``<metric>-<class>``.

    Args:
        results: ``{task: {metric: value}}``.
        columns: additional values of each class, ``{class: {title: value}}``, shown in the first columns.
    """
    parts = []
    for task, metrics in results.items():
        overall = {metric: value for metric, value in metrics.items() if "-" not in metric}
        parts.append(f"{task}\n\n" + tabulate([overall.values()], list(overall), tablefmt="pipe", floatfmt=".2f"))
        classes = {name: dict(known) for name, known in (columns or {}).items()}
        for metric, value in metrics.items():
            kind, _, name = metric.partition("-")
            if name:
                classes.setdefault(name, {})[kind] = value
        if classes:
            titles = list(dict.fromkeys(title for row in classes.values() for title in row))
            rows = [[name, *(row.get(title) for title in titles)] for name, row in classes.items()]
            parts.append(tabulate(rows, ["class", *titles], tablefmt="pipe", floatfmt=".2f", missingval="–"))
    return "\n\n".join(parts)


def write_results(results: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path) -> None:
    """Write ``{data set: {task: {metric: value}}}`` to a JSON file, with null for undefined metrics."""
    # Python would write nan, which is not valid JSON.
    plain = json.loads(json.dumps(results), parse_constant=lambda name: None)
    write_json(path, plain)


def _identity(image: Mapping[str, Any]) -> int | str:
    """Return the identifier of a data set image, or of the image from which a model input was made."""
    return image["image_id"] if "image_id" in image else image["file_name"]

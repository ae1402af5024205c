"""``mocodet benchmark evaluate``: compares the evaluators with detectron2's, which must give the same results."""

import argparse
import contextlib
import io
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Instances

from mocodet.common.benchmark.alternate import CPU, alternate
from mocodet.common.benchmark.report import Row, rows_of
from mocodet.common.text import first_few

from ..evaluation.kinds.coco import FasterCOCOEvaluator
from ..evaluation.kinds.voc import VOCEvaluator
from .drawn import CLASSES, draw_detections, draw_objects, write_coco, write_voc

SEED = 0
NAMES = {
    "voc": ("detectron2", "mocodet"),
    "coco": ("detectron2 with pycocotools", "mocodet with faster-coco-eval"),
}


class Evaluation:
    """Evaluates the same detections on each call, from reading the annotations to computing the results.

    Args:
        make: function that returns a new evaluator.
        metric: ``"voc"`` or ``"coco"``, which determines the format of the image ids.
        found: the detections of each image.

    Attributes:
        results: the results of the last evaluation.
    """

    def __init__(self, make: Callable[[], DatasetEvaluator], metric: str, found: list[Instances]) -> None:
        self.make, self.metric, self.found = make, metric, found
        self.results: dict[str, float] = {}

    def __call__(self) -> None:
        """Evaluate the detections."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints messages
            evaluator = self.make()
            evaluator.reset()
            for number, instances in enumerate(self.found):
                image = f"{number:06d}" if self.metric == "voc" else number
                evaluator.process([{"image_id": image}], [{"instances": instances}])
            self.results = evaluator.evaluate()["bbox"]


def evaluators(metric: str, dataset: str, folder: Path) -> dict[str, Callable[[], DatasetEvaluator]]:
    """Return functions that create detectron2's evaluator and mocodet's, by name."""
    theirs, ours = NAMES[metric]
    if metric == "voc":
        return {
            theirs: lambda: PascalVOCDetectionEvaluator(dataset),
            ours: lambda: VOCEvaluator(dataset, str(folder / "detections")),
        }
    return {
        theirs: lambda: COCOEvaluator(dataset, tasks=("bbox",), use_fast_impl=False),
        ours: lambda: FasterCOCOEvaluator(dataset, tasks=("bbox",)),
    }


def check_equal(theirs: dict[str, float], ours: dict[str, float]) -> None:
    """Check that the results of detectron2 and mocodet are equal.

    Raises:
        ValueError: a result differs by more than 1e-9.
    """
    differing = [
        f"{key} is {value} with detectron2 and {ours[key]} with mocodet"
        for key, value in theirs.items()
        if not np.isclose(value, ours[key], rtol=0, atol=1e-9, equal_nan=True)  # nan for a class without objects
    ]
    if differing:
        raise ValueError(f"the results differ: {first_few(differing)}")


def compare(metric: str, images: int, detections: int, pairs: int) -> list[Row]:
    """Compare the evaluators for one metric on random data.

    Raises:
        ValueError: see `check_equal`.
    """
    classes = [f"class{number}" for number in range(CLASSES[metric])]
    metadata = MetadataCatalog.get(f"benchmark_{metric}_{uuid.uuid4().hex}").set(thing_classes=classes)
    rng = np.random.default_rng(SEED)
    truth = [draw_objects(rng, metric) for _ in range(images)]
    found = [draw_detections(rng, objects, detections, metric) for objects in truth]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (write_voc if metric == "voc" else write_coco)(root, truth, metadata)
        makers = evaluators(metric, metadata.name, root)
        runs = {who: Evaluation(make, metric, found) for who, make in makers.items()}
        seconds = alternate(runs, pairs, CPU, warm_up=0)  # an evaluation is slow, and in practice it runs once
    theirs, ours = (run.results for run in runs.values())
    check_equal(theirs, ours)
    return rows_of(
        f"evaluation, {metric}, {images} images with {detections} detections",
        seconds,
        reference=NAMES[metric][0],
        clock=CPU,
        settings={"images": images, "detections": detections, "classes": len(classes)},
        details={who: {key: f"{run.results[key]:.4f}" for key in ("AP", "AP50", "AP75")} for who, run in runs.items()},
    )


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the result rows for each metric."""
    for metric in args.metric:
        yield compare(metric, args.images, args.detections, args.pairs)

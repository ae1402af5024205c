#!/usr/bin/env python
"""Time the evaluators beside those whose numbers they give, in one run: `benchmark_evaluation.py`.

A data set in VOC's layout or COCO's and detections of it, some on objects and most on nothing, are drawn at random.
Each evaluator gets the same detections on one thread. Times are of the CPU, so that other programs disturb them little;
reading the annotations is part of them. A difference between the results is an error.
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from tabulate import tabulate

from mocodet.common.commands.arguments import positive
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator
from mocodet.detection.evaluation.kinds.voc import VOCEvaluator

WIDTH, HEIGHT = 500, 375
CLASSES = {"voc": 20, "coco": 80}
OBJECTS = {"voc": 3, "coco": 7}  # the mean of an image, about as in test2007 and val2017

Objects = tuple[np.ndarray, np.ndarray]  # M classes; M x 4 boxes x0 y0 x1 y1, of whole pixels
Makers = dict[str, Callable[[], DatasetEvaluator]]  # the first makes the reference


def draw_objects(rng: np.random.Generator, metric: str) -> Objects:
    """Draw the objects of one image, at least one."""
    count = 1 + rng.poisson(OBJECTS[metric] - 1)
    low = rng.integers(0, [WIDTH - 20, HEIGHT - 20], (count, 2))
    size = rng.integers(10, [WIDTH, HEIGHT], (count, 2))
    return rng.integers(0, CLASSES[metric], count), np.hstack([low, np.minimum(low + size, [WIDTH, HEIGHT])])


def draw_detections(rng: np.random.Generator, objects: Objects, count: int, metric: str) -> Instances:
    """Draw detections of one image: a few about each object, the others of anything and with lower scores."""
    classes, boxes = objects
    hits = np.flatnonzero(rng.random(count) < 0.3)
    others = count - len(hits)
    chosen = rng.integers(0, len(classes), len(hits))
    low = rng.uniform(0, [WIDTH - 20, HEIGHT - 20], (others, 2))
    strays = np.hstack([low, np.minimum(low + rng.uniform(10, HEIGHT, (others, 2)), [WIDTH, HEIGHT])])
    near = boxes[chosen] + rng.normal(0, 6, (len(hits), 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.from_numpy(np.vstack([near, strays])).float()),
        scores=torch.from_numpy(np.concatenate([rng.beta(4, 2, len(hits)), rng.beta(1, 4, others)])).float(),
        pred_classes=torch.from_numpy(np.concatenate([classes[chosen], rng.integers(0, CLASSES[metric], others)])),
    )


def prepare_voc(root: Path, truth: list[Objects], metadata: Metadata) -> Makers:
    """Write and register data in VOC's layout, a tenth of the objects difficult; return what makes evaluators."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{image:06d}\n" for image in range(len(truth))))
    for image, (classes, boxes) in enumerate(truth):
        objects = [
            f"<object><name>class{kind}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int((x0 + y0 + x1 + y1) % 10 == 0)}</difficult>"
            f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for kind, (x0, y0, x1, y1) in zip(classes.tolist(), boxes.tolist(), strict=True)
        ]
        (root / "Annotations" / f"{image:06d}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    metadata.set(dirname=str(root), split="test", year=2007)
    return {
        "detectron2": lambda: PascalVOCDetectionEvaluator(metadata.name),
        "mocodet": lambda: VOCEvaluator(metadata.name, str(root / "detections")),
    }


def prepare_coco(root: Path, truth: list[Objects], metadata: Metadata) -> Makers:
    """Write and register annotations as COCO's JSON, one in fifty of a crowd; return what makes evaluators."""
    annotations: list[dict] = []
    for image, (classes, boxes) in enumerate(truth):
        for kind, (x0, y0, x1, y1) in zip(classes.tolist(), boxes.tolist(), strict=True):
            number, width, height = len(annotations) + 1, x1 - x0, y1 - y0
            ids = {"id": number, "image_id": image, "category_id": kind, "iscrowd": int(number % 50 == 0)}
            annotations.append({**ids, "bbox": [x0, y0, width, height], "area": width * height})
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(len(truth))]
    categories = [{"id": kind, "name": f"class{kind}"} for kind in range(CLASSES["coco"])]
    file = root / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    metadata.set(json_file=str(file))
    return {
        "detectron2 with pycocotools": lambda: COCOEvaluator(metadata.name, tasks=("bbox",), use_fast_impl=False),
        "mocodet with faster-coco-eval": lambda: FasterCOCOEvaluator(metadata.name, tasks=("bbox",)),
    }


def measure(make: Callable[[], DatasetEvaluator], metric: str, found: list[Instances]) -> tuple[dict, list[float]]:
    """Return the results, and the CPU seconds of taking the detections and of evaluating them."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        start = time.process_time()
        evaluator = make()
        evaluator.reset()
        for number, instances in enumerate(found):
            image = f"{number:06d}" if metric == "voc" else number
            evaluator.process([{"image_id": image}], [{"instances": instances}])
        middle = time.process_time()
        results = evaluator.evaluate()["bbox"]
    return results, [middle - start, time.process_time() - middle]


def compare(metric: str, images: int, detections: int, seed: int) -> None:
    """Print a table of both evaluators' times and AP.

    Raises:
        SystemExit: their results differ.
    """
    metadata = MetadataCatalog.get(f"benchmark_{metric}").set(
        thing_classes=[f"class{n}" for n in range(CLASSES[metric])]
    )
    rng = np.random.default_rng(seed)
    truth = [draw_objects(rng, metric) for _ in range(images)]
    found = [draw_detections(rng, objects, detections, metric) for objects in truth]
    with tempfile.TemporaryDirectory() as folder:
        makers = (prepare_voc if metric == "voc" else prepare_coco)(Path(folder), truth, metadata)
        measured = {name: measure(make, metric, found) for name, make in makers.items()}
    (reference, its_seconds), (ours, _) = measured.values()
    headers = ["evaluator", "process s", "evaluate s", "both s", "ratio", "AP", "AP50", "AP75"]
    rows = [
        [name, *seconds, sum(seconds), sum(its_seconds) / sum(seconds), *(results[key] for key in headers[5:])]
        for name, (results, seconds) in measured.items()
    ]
    print(f"{metric}: {images} images x {detections} detections, {CLASSES[metric]} classes, one thread")
    print(tabulate(rows, headers, "pipe", floatfmt=("", ".2f", ".2f", ".2f", ".1f", ".4f", ".4f", ".4f")), "\n")
    if differing := [key for key, value in reference.items() if not np.isclose(value, ours[key], rtol=0, atol=1e-9)]:
        sys.exit(f"error: the results differ in {', '.join(differing)}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", nargs="+", choices=list(CLASSES), default=list(CLASSES), help="default: both")
    parser.add_argument(
        "--images", type=positive(int), default=4952, help="how many (%(default)s, as in VOC's test2007)"
    )
    parser.add_argument("--detections", type=positive(int), default=100, help="how many in each image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    for metric in args.metric:
        compare(metric, args.images, args.detections, args.seed)


if __name__ == "__main__":
    main()

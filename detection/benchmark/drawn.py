"""Random data sets in VOC and COCO layouts, with random detections, of which a few are on objects."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

WIDTH, HEIGHT = 500, 375
CLASSES = {"voc": 20, "coco": 80}
OBJECTS = {"voc": 3, "coco": 7}  # mean number per image, roughly as in test2007 and val2017

Objects = tuple[np.ndarray, np.ndarray]  # M classes, and M x 4 boxes (x0, y0, x1, y1) in integer pixels


def draw_objects(rng: np.random.Generator, metric: str) -> Objects:
    """Sample the objects of one image, which has at least one."""
    count = 1 + rng.poisson(OBJECTS[metric] - 1)
    low = rng.integers(0, [WIDTH - 20, HEIGHT - 20], (count, 2))
    size = rng.integers(10, [WIDTH, HEIGHT], (count, 2))
    return rng.integers(0, CLASSES[metric], count), np.hstack([low, np.minimum(low + size, [WIDTH, HEIGHT])])


def draw_detections(rng: np.random.Generator, objects: Objects, count: int, metric: str) -> Instances:
    """Sample the detections of one image: a few around each object, and the others anywhere, with lower scores."""
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


def write_voc(root: Path, truth: list[Objects], metadata: Metadata) -> None:
    """Write and register a data set in VOC layout, in which one tenth of the objects are marked difficult."""
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


def write_coco(root: Path, truth: list[Objects], metadata: Metadata) -> None:
    """Write and register annotations as COCO JSON, in which one object in fifty is a crowd."""
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

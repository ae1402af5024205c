"""Writes a few test images with their objects and detections for the report of a study (``examples.json``)."""

import hashlib
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode, Instances
from PIL import Image

from mocodet.common.files import write_json
from mocodet.common.report.thumbnails import as_jpeg

from ..data.images import read_image
from .things import image_key

EXAMPLES_FILE = "examples.json"
VERSION = 1
CHOSEN = 8  # images
CANDIDATES = 4 * CHOSEN  # images, of which those with objects are chosen first
MIN_SCORE = 0.3
MOST_BELOW = 20  # number of detections kept per image even if they score below MIN_SCORE
SIDE = 240  # maximum length of a thumbnail's longer side, in pixels
QUALITY = 80  # JPEG quality


@dataclass(order=True)
class Candidate:
    """An image that may be chosen, with the hash of its file name and its detections."""

    rank: str
    image: str  # from `image_key`
    # Class, score and box (x0, y0, x1, y1 in pixels), by decreasing score.
    found: list[tuple[int, float, list[float]]] = field(compare=False)


class Candidates:
    """Keeps the images with the lowest hashes and their detections, regardless of the order of the images.

    Every trial on a data set therefore shows the same images, and processes select images without communicating.
    """

    def __init__(self) -> None:
        self.kept: list[Candidate] = []

    def see(self, record: Mapping[str, Any], instances: Instances) -> None:
        """Keep an image if its hash is among the lowest.

        Args:
            record: the record of the image, with ``file_name``.
            instances: the detections, with ``pred_boxes``, ``scores`` and ``pred_classes``.
        """
        rank = hashlib.sha256(Path(record["file_name"]).name.encode()).hexdigest()
        if len(self.kept) == CANDIDATES and rank > self.kept[-1].rank:
            return
        sure = int((instances.scores > MIN_SCORE).sum())
        best = instances[instances.scores.argsort(descending=True, stable=True)[: max(sure, MOST_BELOW)]]
        columns = (best.pred_classes.tolist(), best.scores.tolist(), best.pred_boxes.tensor.tolist())
        insort(self.kept, Candidate(rank, image_key(record), list(zip(*columns, strict=True))))
        del self.kept[CANDIDATES:]


def choose(kept: Iterable[Candidate], records: Mapping[str, Mapping[str, Any]]) -> list[Candidate]:
    """Choose the images to show, giving priority to images with objects.

    Args:
        kept: the candidates of all processes.
        records: the records of the data set, by `image_key`.
    """
    lowest = sorted(kept)[:CANDIDATES]
    return sorted(lowest, key=lambda candidate: not records[candidate.image].get("annotations"))[:CHOSEN]


def write_examples(
    path: str | Path, chosen: Sequence[Candidate], records: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> None:
    """Write the chosen images atomically.

    The file contains ``version``, ``min_score`` and ``images``. Each image has the thumbnail's ``name``, ``width`` and
    ``height``, ``jpeg`` in base64, ``truth`` (``class``, ``box``, ``crowd``) and ``detections`` (``class``, ``box``,
    ``score``, by decreasing score). A box consists of x0, y0, x1, y1 in pixels of the thumbnail. The detections are
    those that score above ``min_score``, but at least as many as there are objects, because a detector trained on few
    labels rarely reaches high scores.
    """
    images = [_example(candidate, records[candidate.image], classes) for candidate in chosen]
    write_json(path, {"version": VERSION, "min_score": MIN_SCORE, "images": images})


def _example(candidate: Candidate, record: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    picture = Image.fromarray(read_image(record["file_name"], "RGB", max_pixels=0))
    width = picture.width
    picture.thumbnail((SIDE, SIDE))

    def scaled(box: Sequence[float]) -> list[float]:
        return [round(side * picture.width / width, 1) for side in box]

    truth = [
        {
            "class": classes[annotation["category_id"]],
            "box": scaled(BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)),
            "crowd": bool(annotation.get("iscrowd", 0)),
        }
        for annotation in record.get("annotations", ())
        if "bbox" in annotation
    ]
    detections = [
        {"class": classes[category], "box": scaled(box), "score": round(score, 3)}
        for number, (category, score, box) in enumerate(candidate.found)
        if score > MIN_SCORE or number < len(truth)
    ]
    return {
        "name": candidate.image,
        "width": picture.width,
        "height": picture.height,
        "jpeg": as_jpeg(picture, QUALITY),
        "truth": truth,
        "detections": detections,
    }

"""The same test images with the detections of each initialisation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .read import Study, Trial, labels

EXAMPLES_FILE = "examples.json"
VERSION = 1
FOUND_AT = 0.5  # IoU
SIDE = 240  # longer side of a displayed image in pixels; smaller images are enlarged to this size
LETTER, LINE = 5.8, 11  # width and height of the letters in labels, in pixels of the displayed image

Box = Sequence[float]  # x0, y0, x1, y1, in pixels of the displayed image


@dataclass(frozen=True)
class Drawn:
    """A box that is drawn on an image.

    Attributes:
        x, y, width, height: position and size in pixels of the displayed image.
        label: text at (label_x, label_y).
        kind: ``truth``, ``crowd``, ``right``, ``wrong`` or ``ignored``.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    label_x: float
    label_y: float
    kind: str


def pictures(study: Study) -> dict[str, Any] | None:
    """Collect images, ground truth and detections for the page. The result is None if no trial saved any.

    For each detector, one seed is shown, at the largest label fraction: the first one that all initialisations share.
    """
    store: dict[str, dict[str, Any]] = {}
    groups = []
    for detector in study.content["detectors"]:
        chosen = _chosen(study, detector)
        if not chosen:
            continue
        by_init = {init: _examples(trial) for init, trial in chosen.items()}
        first = next(iter(by_init.values()))
        shown = []
        for name, image in first.items():
            place = store.setdefault(image["jpeg"], {**image, "anchor": f"image-{len(store) + 1}"})
            panels = [{"name": "ground truth", **_truth(image)}]
            for init, examples in by_init.items():
                if name in examples:
                    panels.append({"name": init, **_detected(examples[name])})
            shown.append({"name": name, "place": place, "panels": panels})
        trial = next(iter(chosen.values()))
        title = f"{detector}, {labels(trial.fraction)}, seed {trial.seed}"
        groups.append({"name": title, "images": shown})
    return {"groups": groups, "store": list(store.values())} if groups else None


def matched(truth: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classify each detection as ``right``, ``wrong`` or ``ignored``.

    A detection is right if it overlaps an object of its class with an IoU of at least 0.5 that no detection with a
    higher score has matched. Any other detection is ignored if at least half of its area is in a crowd of its class.

    Args:
        truth: objects with ``class``, ``box`` and ``crowd``.
        detections: detections with ``class``, ``box`` and ``score``.
    """
    left = [thing for thing in truth if not thing["crowd"]]
    verdicts = ["wrong"] * len(detections)
    for place in sorted(range(len(detections)), key=lambda n: -detections[n]["score"]):
        own = detections[place]
        overlaps = [
            (iou(thing["box"], own["box"]), n) for n, thing in enumerate(left) if thing["class"] == own["class"]
        ]
        best, n = max(overlaps, default=(0.0, -1))
        if best >= FOUND_AT:
            left.pop(n)
            verdicts[place] = "right"
        elif any(
            thing["crowd"]
            and thing["class"] == own["class"]
            and _shared(thing["box"], own["box"]) >= area(own["box"]) / 2
            for thing in truth
        ):
            verdicts[place] = "ignored"
    return verdicts


def iou(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over their union."""
    shared = _shared(one, other)
    return shared / (area(one) + area(other) - shared) if shared else 0.0


def area(box: Box) -> float:
    """Return the area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(one: Box, other: Box) -> float:
    """Return the area of the intersection of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _chosen(study: Study, detector: str) -> dict[str, Trial]:
    """Return one trial of each initialisation, for the first seed with examples from the most initialisations."""
    fractions = [fraction for of, fraction in study.groups if of == detector]
    if not fractions:
        return {}
    kept = {
        (trial.seed, init): trial
        for init in study.inits
        for trial in study.finished(detector, max(fractions), init)
        if (trial.folder / EXAMPLES_FILE).is_file()
    }
    seeds = sorted({seed for seed, _ in kept})
    if not seeds:
        return {}
    seed = max(seeds, key=lambda seed: (sum(own == seed for own, _ in kept), -seed))
    return {init: kept[seed, init] for init in study.inits if (seed, init) in kept}


def _examples(trial: Trial) -> dict[str, dict[str, Any]]:
    """Return the images that a trial saved, keyed by name and resized for display.

    Raises:
        ValueError: the version of the file is not supported.
    """
    path = trial.folder / EXAMPLES_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["version"] != VERSION:
        raise ValueError(f"{path} has version {content['version']}, but mocodet supports only version {VERSION}")
    return {image["name"]: enlarged(image) for image in content["images"]}


def enlarged(image: Mapping[str, Any]) -> dict[str, Any]:
    """Enlarge a small image for display, so that letters and lines look the same in all images."""
    scale = max(1.0, SIDE / max(image["width"], image["height"]))

    def moved(things: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**thing, "box": [scale * value for value in thing["box"]]} for thing in things]

    width, height = (round(scale * image[side], 1) for side in ("width", "height"))
    things = {kind: moved(image[kind]) for kind in ("truth", "detections")}
    return {**image, "width": width, "height": height, **things}


def _truth(image: Mapping[str, Any]) -> dict[str, Any]:
    boxes = [(thing["box"], thing["class"], "crowd" if thing["crowd"] else "truth") for thing in image["truth"]]
    count = _objects(image)
    return {"boxes": _drawn(image, boxes), "words": f"{count} object{'' if count == 1 else 's'}"}


def _detected(image: Mapping[str, Any]) -> dict[str, Any]:
    verdicts = matched(image["truth"], image["detections"])
    labels = [f"{found['class']} {found['score']:.2f}" for found in image["detections"]]
    boxes = zip((found["box"] for found in image["detections"]), labels, verdicts, strict=True)
    words = f"{verdicts.count('right')} of {_objects(image)} found"
    if wrong := verdicts.count("wrong"):
        words += f", {wrong} false"
    # Right detections come last, so that they are drawn on top of the others.
    return {"boxes": sorted(_drawn(image, boxes), key=lambda box: box.kind == "right"), "words": words}


def _objects(image: Mapping[str, Any]) -> int:
    return sum(not thing["crowd"] for thing in image["truth"])


def _drawn(image: Mapping[str, Any], boxes: Iterable[tuple[Box, str, str]]) -> list[Drawn]:
    """Position boxes, given with label and kind, and their labels: above the box or, if that overlaps, lower."""
    drawn: list[Drawn] = []
    for box, label, kind in boxes:
        x0, y0, x1, y1 = (round(value, 1) for value in box)
        label_x = max(1.0, min(x0 + 1, image["width"] - LETTER * len(label)))
        label_y = max(y0 - 3, LINE)
        end = label_x + LETTER * len(label)
        while label_y < image["height"] - LINE and any(
            abs(label_y - other.label_y) < LINE
            and label_x < other.label_x + LETTER * len(other.label)
            and other.label_x < end
            for other in drawn
        ):
            label_y += 1
        width, height = round(x1 - x0, 1), round(y1 - y0, 1)
        drawn.append(Drawn(x0, y0, width, height, label, round(label_x, 1), round(label_y, 1), kind))
    return drawn

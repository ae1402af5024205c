"""A study's folder as a study leaves it, with made-up numbers, for tests of the report."""

import base64
import io
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from mocodet.common.matches import MATCHES_FILE, Matches, write_matches

CLASSES = ("cat <&>", "dog", "a bird's nest")
THRESHOLDS = np.linspace(0.5, 0.95, 10)
ITERATIONS = 200


def write_study(
    folder: Path,
    *,
    detectors: Sequence[str] = ("FPN", "C4"),
    levels: Mapping[str, float] = {"random": 0.4, "moco": 0.6, "dense": 0.65},
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: int = 3,
    failed: str | None = "Loss became infinite <at 7> & so on",
    config: str = "coco_R_50_FPN_1x",
    trained_with: Mapping | None = None,
) -> dict:
    """Write a study whose last trial failed for the reason ``failed``; return what its ``results.json`` holds."""
    draw = random.Random(0)
    trials = []
    for detector, fraction, (init, level), seed in itertools.product(
        detectors, fractions, levels.items(), range(seeds)
    ):
        path = f"{detector}/{init}/labels_{100 * fraction:g}/seed_{seed}"
        found = make_matches(level * (0.4 + 0.6 * fraction) + draw.gauss(0, 0.05), draw)
        metrics = write_trial(folder / path, found, init, trained_with or {}, draw)
        command = ["mocodet", "train", "--config-file", f"{config}_{init}.yaml", "SEED", f"{seed}"]
        trials.append(
            {
                "detector": detector,
                "init": init,
                "fraction": fraction,
                "seed": seed,
                "status": "finished",
                "reason": None,
                "folder": path,
                "metrics": metrics,
                "seconds": 63.0,
                "command": command,
            }
        )
    if failed:
        trials[-1].update(status="failed", reason=failed, metrics={})
    content = {
        "version": 2,
        "name": "made-up <study>",
        "reference": next(iter(levels)),
        "seeds": list(range(seeds)),
        "fractions": list(fractions),
        "detectors": list(detectors),
        "inits": list(levels),
        "trials": trials,
        "versions": {"mocodet": "0.1.0", "torch": "2.10"},
        "weights": {"moco": {"path": "output/moco.pkl", "sha256": "ab" * 32}},
    }
    (folder / "results.json").write_text(json.dumps(content))
    return content


def write_trial(
    folder: Path, found: Matches, init: str, trained_with: Mapping, draw: random.Random
) -> dict[str, float]:
    """Write what a finished trial leaves: its log, its config, its matches and its examples; return its metrics."""
    folder.mkdir(parents=True)
    metrics = {f"bbox/{name}": float(value[0]) for name, value in found.metrics().items()}
    lines = []
    for iteration in range(19, ITERATIONS, 20):
        lines.append({"iteration": iteration, "total_loss": 2.0 - iteration / 200 + draw.gauss(0, 0.05), "lr": 0.02})
        if iteration + 1 in (100, 160):
            lines.append({"iteration": iteration, **{key: iteration / 220 * value for key, value in metrics.items()}})
    by_class = 100 * found.average_precisions().mean(axis=(1, 2))
    classes = {f"bbox/AP-{name}": float(ap) for name, ap in zip(CLASSES, by_class, strict=True)}
    lines.append({"iteration": ITERATIONS, **metrics, **classes, "bbox/AP-absent": float("nan")})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text + '{"iterat')
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(trained_with)))
    write_matches(folder / MATCHES_FILE, {"bbox": found})
    (folder / "examples.json").write_text(json.dumps(examples(draw)))
    return metrics


def make_matches(right: float, draw: random.Random, images: int = 20) -> Matches:
    """Make detections of each class; the share ``right`` is right at an IoU of 0.5, and fewer at higher ones."""
    count = 30
    score = np.concatenate([np.sort([draw.random() for _ in range(count)])[::-1] for _ in CLASSES])
    fit = [draw.random() for _ in score]
    found = np.array([[value < right * (1 - n / 12) for value in fit] for n in range(len(THRESHOLDS))])
    return Matches(
        metric="coco",
        thresholds=THRESHOLDS,
        classes=np.array(CLASSES),
        images=np.array([f"{n:06}" for n in range(images)]),
        begin=np.arange(len(CLASSES) + 1) * count,
        score=score.astype(np.float32),
        image=np.array([draw.randrange(images) for _ in score]),
        right=found,
        ignored=np.zeros_like(found),
        objects_begin=np.arange(len(CLASSES) + 1) * count,
        object_image=np.arange(len(score)) % images,
    )


def examples(draw: random.Random, count: int = 2) -> dict:
    """Make images of one colour with two objects each; the detections find the first."""
    images = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (240, 160), (40 * number, 90, 120)).save(buffer, "JPEG")
        boxes = [[20, 20, 100, 90], [130, 60, 230, 150]]
        truth = [{"class": CLASSES[n], "box": box, "crowd": False} for n, box in enumerate(boxes)]
        near = [20 + draw.random(), 21, 101, 91]
        images.append(
            {
                "name": f"{number:06}",
                "width": 240,
                "height": 160,
                "jpeg": base64.b64encode(buffer.getvalue()).decode(),
                "truth": truth,
                "detections": [
                    {"class": CLASSES[0], "box": near, "score": 0.91},
                    {"class": CLASSES[2], "box": [5, 100, 60, 155], "score": 0.4},
                ],
            }
        )
    return {"version": 1, "min_score": 0.3, "images": images}

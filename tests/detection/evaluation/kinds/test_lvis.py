import json
import math
from dataclasses import replace
from pathlib import Path

import lvis.eval
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from mocodet.detection.evaluation.complete import CompleteEvaluator
from mocodet.detection.evaluation.kinds import KINDS
from mocodet.detection.evaluation.kinds.lvis import LVISEvaluator
from tests.detection.tiny import new_name

SIZE = 200
FREQUENCIES = "rccff"  # of the categories 1 to 5; the last one never occurs
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Corners, x0 y0 x1 y1, of boxes large enough to overlap."""
    start = rng.integers(0, 60, (count, 2))
    return np.concatenate([start, start + rng.integers(30, 100, (count, 2))], axis=1).astype(float)


def ground_truth(seed: int, images: int = 6) -> dict:
    rng = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": []}
    for image in range(1, images + 1):
        present = rng.choice(4, size=rng.integers(1, 4), replace=False) + 1
        absent = [category for category in range(1, 5) if category not in present]
        content["images"].append(
            {
                "id": image,
                "height": SIZE,
                "width": SIZE,
                "neg_category_ids": [int(category) for category in absent[:1]],
                "not_exhaustive_category_ids": [int(present[0])] if image % 2 else [],
            }
        )
        for category in present:
            for x0, y0, x1, y1 in random_boxes(rng, rng.integers(1, 4)):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image,
                        "category_id": int(category),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                    }
                )
    for category, frequency in enumerate(FREQUENCIES, start=1):
        content["categories"].append({"id": category, "name": f"c{category}", "frequency": frequency})
    return content


def register(tmp_path: Path, content: dict) -> str:
    name = new_name()
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    MetadataCatalog.get(name).set(json_file=str(path), thing_classes=[f"c{i}" for i in range(1, 6)])
    DatasetCatalog.register(name, lambda: [{"image_id": image["id"]} for image in content["images"]])
    return name


def detections(content: dict, seed: int) -> dict[int, Instances]:
    """For each image its true boxes with noise, some twice, some with a wrong category, and boxes on nothing."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in content["images"]:
        boxes, classes = [], []
        for annotation in content["annotations"]:
            if annotation["image_id"] != image["id"]:
                continue
            x, y, w, h = annotation["bbox"]
            for _ in range(rng.integers(0, 3)):
                boxes.append(np.array([x, y, x + w, y + h]) + rng.normal(0, 4, 4))
                classes.append(annotation["category_id"] if rng.random() < 0.8 else rng.integers(1, 6))
        boxes += list(random_boxes(rng, 4))
        classes += list(rng.integers(1, 6, 4))
        found[image["id"]] = Instances(
            (SIZE, SIZE),
            pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)),
            # Ties, too: LVIS takes those of an image in the given order.
            scores=torch.tensor(rng.integers(1, 8, len(boxes)) / 8, dtype=torch.float32),
            pred_classes=torch.tensor(np.array(classes) - 1),
        )
    return found


def run(name: str, found: dict[int, Instances], tasks: tuple[str, ...] = ("bbox",), output: str | None = None) -> dict:
    evaluator = CompleteEvaluator(LVISEvaluator(name, tasks, output), name)
    for image, instances in found.items():
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator.evaluate()


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    width, height = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = max(width, 0) * max(height, 0)
    return both / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - both)


def reference(content: dict, found: dict[int, Instances]) -> dict[int, np.ndarray]:
    """AP of boxes by category, at each threshold, written from LVIS's description (section 3), not from its script."""
    aps = {}
    for category in range(1, len(FREQUENCIES) + 1):
        by_threshold = []
        for threshold in THRESHOLDS:
            hits, positives = [], 0  # (score, is it true), and the number of objects
            for image in content["images"]:
                truth = [
                    np.array(a["bbox"]) + np.array([0, 0, *a["bbox"][:2]])
                    for a in content["annotations"]
                    if (a["image_id"], a["category_id"]) == (image["id"], category)
                ]
                if not truth and category not in image["neg_category_ids"]:
                    continue  # nobody knows whether the category is in this image
                positives += len(truth)
                instances = found[image["id"]]
                mine = [i for i in range(len(instances)) if int(instances.pred_classes[i]) + 1 == category]
                free = list(range(len(truth)))
                for i in sorted(mine, key=lambda i: -float(instances.scores[i])):
                    box = instances.pred_boxes.tensor[i].double().numpy()
                    overlaps = {j: overlap(box, truth[j]) for j in free}
                    best = max(overlaps, key=overlaps.get, default=None)
                    if best is not None and overlaps[best] >= threshold:
                        free.remove(best)
                        hits.append((float(instances.scores[i]), True))
                    elif category not in image["not_exhaustive_category_ids"]:
                        hits.append((float(instances.scores[i]), False))
            if not positives:
                continue
            right = np.cumsum([hit for _, hit in sorted(hits, key=lambda hit: -hit[0])])
            recall, precision = right / positives, right / np.arange(1, len(right) + 1)
            by_threshold.append(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))
        if by_threshold:
            aps[category] = 100 * np.array(by_threshold)
    return aps


@pytest.mark.parametrize("seed", range(4))
def test_lvis_evaluator__agrees_with_the_definition(tmp_path, seed):
    content = ground_truth(seed)
    found = detections(content, seed)
    results = run(register(tmp_path, content), found)["bbox"]
    aps = reference(content, found)
    assert set(aps) == {1, 2, 3, 4}
    assert 0 < results["AP"] < results["AP50"] < 100
    assert results["AP"] == pytest.approx(np.mean(list(aps.values())))
    assert results["AP50"] == pytest.approx(np.mean([ap[0] for ap in aps.values()]))
    assert results["AP75"] == pytest.approx(np.mean([ap[5] for ap in aps.values()]))
    for letter in "rcf":
        wanted = [ap for category, ap in aps.items() if FREQUENCIES[category - 1] == letter]
        assert results[f"AP{letter}"] == pytest.approx(np.mean(wanted))


def perfect(content: dict) -> dict[int, Instances]:
    found = {}
    for image in content["images"]:
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        masks = torch.zeros(len(mine), SIZE, SIZE, dtype=torch.bool)
        boxes = torch.zeros(len(mine), 4)
        for index, annotation in enumerate(mine):
            x, y, w, h = (int(value) for value in annotation["bbox"])
            masks[index, y : y + h, x : x + w] = True
            boxes[index] = torch.tensor([x, y, x + w, y + h])
        found[image["id"]] = Instances(
            (SIZE, SIZE),
            pred_boxes=Boxes(boxes),
            scores=torch.ones(len(mine)),
            pred_classes=torch.tensor([a["category_id"] - 1 for a in mine]),
            pred_masks=masks,
        )
    return found


def test_lvis_evaluator__boxes_and_masks_and_what_is_not_defined(tmp_path):
    content = ground_truth(0)
    content["categories"][0]["frequency"] = "f"  # so that no rare category is left
    name = register(tmp_path, content)
    results = run(name, perfect(content), ("bbox", "segm"), str(tmp_path / "out"))
    for task in ("bbox", "segm"):
        for metric in ("AP", "AP50", "AP75", "APc", "APf"):
            assert results[task][metric] == pytest.approx(100), (task, metric)
        assert math.isnan(results[task]["APr"])  # the script says -1
    saved = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert sorted(result["category_id"] for result in saved) == sorted(a["category_id"] for a in content["annotations"])
    again, count = LVISEvaluator(name, None).evaluate_saved(tmp_path / "out")
    assert count == len(saved)
    assert {task: pytest.approx(metrics, nan_ok=True) for task, metrics in results.items()} == again


def test_lvis_evaluator__saved_predictions_of_another_data_set(tmp_path):
    file = tmp_path / "lvis_instances_results.json"
    file.write_text(json.dumps([{"image_id": 10**6, "category_id": 1, "score": 1.0, "bbox": [0, 0, 1, 1]}]))
    with pytest.raises(ValueError, match=r"prediction 0 refers to image 1000000, which is not in the data set"):
        LVISEvaluator(register(tmp_path, ground_truth(0)), None).evaluate_saved(tmp_path)


def test_lvis_evaluator__tasks_of_saved_predictions(tmp_path):
    content = ground_truth(0)
    name = register(tmp_path, content)
    run(name, perfect(content), ("bbox", "segm"), str(tmp_path))
    file = tmp_path / "lvis_instances_results.json"
    results = json.loads(file.read_text())
    with pytest.raises(ValueError, match=r"support bbox and segm, but not keypoints; select the tasks with --tasks"):
        LVISEvaluator(name, ("bbox", "keypoints")).evaluate_saved(file)
    left_out = {"bbox": "bbox", "segm": "segmentation"}
    for task, shape in left_out.items():
        file.write_text(json.dumps([{key: result[key] for key in result if key != shape} for result in results]))
        with pytest.raises(ValueError, match=rf"has no {shape}, which the task {task} requires"):
            LVISEvaluator(name, (task,)).evaluate_saved(file)
        metrics, _ = LVISEvaluator(name, None).evaluate_saved(file)
        assert {kind: found["AP"] for kind, found in metrics.items()} == {
            kind: pytest.approx(100) for kind in left_out if kind != task
        }


def test_lvis_evaluator__no_detection_is_zero(tmp_path):
    content = ground_truth(0)
    nothing = {image: found[found.scores > 2] for image, found in perfect(content).items()}
    results = run(register(tmp_path, content), nothing, ("bbox", "segm"))
    assert set(results["bbox"].values()) == set(results["segm"].values()) == {0.0}


def test_lvis_evaluator__leaves_numpy_and_the_script_as_they_were(tmp_path):
    content = ground_truth(0)
    run(register(tmp_path, content), perfect(content))
    assert lvis.eval.np is np


def test_lvis_evaluator__not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "lvis", replace(KINDS["lvis"], packages=("no_such_package",)))
    name = register(tmp_path, ground_truth(0))
    with pytest.raises(
        ValueError, match=r"requires the packages no_such_package, .* with: +pip install --no-deps lvis$"
    ):
        LVISEvaluator(name, ("bbox",))

import json
import logging
import re
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from detectron2.evaluation import CityscapesSemSegEvaluator
from detectron2.utils import comm
from PIL import Image

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.build import build_evaluator
from mocodet.detection.evaluation.complete import CompleteEvaluator
from mocodet.detection.evaluation.kinds.semseg import MeanIoUEvaluator
from tests.detection.tiny import empty_config, new_name
from tests.processes import run_in_processes

CLASSES = ["sky", "road", "tree", "car"]


def make_dataset(root: Path, labels: list[np.ndarray]) -> str:
    """Register images whose palette labels are given; return the data set's name."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, values in enumerate(labels):
        Image.new("RGB", values.shape[::-1]).save(root / "images" / f"{index}.png")
        picture = Image.fromarray(values.astype(np.uint8))
        picture.putpalette([255 - i // 3 for i in range(768)])
        picture.save(root / "labels" / f"{index}.png")
    entry = {"NAME": new_name(), "KIND": "semseg", "CLASSES": CLASSES}
    entry |= {"IMAGES": str(root / "images"), "LABELS": str(root / "labels")}
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    return entry["NAME"]


def random_labels(count: int, classes: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, classes, (12 + i, 17)) for i in range(count)]
    for values in found:
        values[rng.random(values.shape) < 0.2] = 255
    return found


def guesses(labels: list[np.ndarray], classes: int = 4) -> list[np.ndarray]:
    """Predictions that are right on 60 in 100 pixels or so."""
    rng = np.random.default_rng(9)
    return [np.where(rng.random(a.shape) < 0.6, a % classes, rng.integers(0, classes, a.shape)) for a in labels]


def scores(predicted: np.ndarray, classes: int = 4) -> dict:
    return {"sem_seg": F.one_hot(torch.from_numpy(predicted).long(), classes).permute(2, 0, 1).float()}


def run(evaluator: MeanIoUEvaluator | CompleteEvaluator, name: str, predicted: list[np.ndarray], classes: int = 4):
    evaluator.reset()
    for record, values in zip(DatasetCatalog.get(name), predicted, strict=True):
        evaluator.process([record], [scores(values, classes)])
    return evaluator.evaluate()


def slow_metrics(labels: list[np.ndarray], predicted: list[np.ndarray]) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    hits, missed, false = [0] * 4, [0] * 4, [0] * 4
    for truth, found in zip(labels, predicted, strict=True):
        for t, p in zip(truth.ravel().tolist(), found.ravel().tolist(), strict=True):
            if t == 255:
                continue
            hits[t] += t == p
            missed[t] += t != p
            if t != p:
                false[p] += 1
    ious = [100 * h / (h + m + f) for h, m, f in zip(hits, missed, false, strict=True)]
    accuracies = [100 * h / (h + m) for h, m in zip(hits, missed, strict=True)]
    pixels = [h + m for h, m in zip(hits, missed, strict=True)]
    return {
        "mIoU": sum(ious) / 4,
        "mACC": sum(accuracies) / 4,
        "pACC": 100 * sum(hits) / sum(pixels),
        "fwIoU": sum(iou * count for iou, count in zip(ious, pixels, strict=True)) / sum(pixels),
        **{f"IoU-{name}": iou for name, iou in zip(CLASSES, ious, strict=True)},
        **{f"ACC-{name}": accuracy for name, accuracy in zip(CLASSES, accuracies, strict=True)},
    }


def test_mean_iou__equals_the_definition(tmp_path, caplog):
    labels = random_labels(5)
    name = make_dataset(tmp_path, labels)
    evaluator = build_evaluator(empty_config(OUTPUT_DIR=str(tmp_path)), name)
    assert type(evaluator.evaluator) is MeanIoUEvaluator
    with caplog.at_level(logging.INFO, logger="mocodet"):
        results = run(evaluator, name, guesses(labels))
    expected = slow_metrics(labels, guesses(labels))
    assert results.keys() == {"sem_seg"}
    assert results["sem_seg"] == pytest.approx(expected)
    assert all(type(value) is float for value in results["sem_seg"].values())
    cells = "car", str(sum((values == 3).sum() for values in labels)), f"{expected['IoU-car']:.2f}"
    assert re.search(r"\| +".join(f"{cell} +" for cell in cells), caplog.text)


def test_mean_iou__every_pixel_right_but_ignored_ones_wrong(tmp_path):
    labels = random_labels(2)
    name = make_dataset(tmp_path, labels)
    results = run(MeanIoUEvaluator(name), name, [values % 4 for values in labels])
    assert set(results["sem_seg"].values()) == {100.0}


def test_mean_iou__class_without_ground_truth_is_named_and_left_out(tmp_path, caplog):
    labels = [np.array([[0, 0, 1, 1]])]
    name = make_dataset(tmp_path, labels)
    # "tree" is predicted, "car" is not; neither is in the ground truth.
    results = run(MeanIoUEvaluator(name), name, [np.array([[0, 0, 1, 2]])])["sem_seg"]
    assert results["mIoU"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert {key for key in results if key.startswith("IoU-")} == {"IoU-sky", "IoU-road"}
    assert f"No ground truth in {name} for classes that are excluded from the mean IoU: tree, car" in caplog.text


def test_mean_iou__no_labelled_pixel(tmp_path):
    name = make_dataset(tmp_path, [np.full((2, 3), 255)])
    with pytest.raises(RuntimeError, match="has no labelled pixels to evaluate on"):
        run(MeanIoUEvaluator(name), name, [np.zeros((2, 3), dtype=int)])


def test_mean_iou__prediction_of_another_size(tmp_path):
    name = make_dataset(tmp_path, random_labels(1))
    with pytest.raises(ValueError, match=r"0\.png has 17 x 12 pixels, but its image .* has 12 x 17"):
        run(MeanIoUEvaluator(name), name, [np.zeros((17, 12), dtype=int)])


def test_mean_iou__label_that_is_no_class(tmp_path):
    name = make_dataset(tmp_path, [np.array([[0, 4]])])
    with pytest.raises(
        ValueError, match=r"labels/0\.png contains the label 4; labels must be below .* 4, or equal to 255"
    ):
        run(MeanIoUEvaluator(name), name, [np.array([[0, 0]])])


def test_mean_iou__predictions_are_left_in_the_output(tmp_path):
    labels = random_labels(2)
    name = make_dataset(tmp_path, labels)
    run(build_evaluator(empty_config(OUTPUT_DIR=str(tmp_path)), name), name, guesses(labels))
    found = json.loads((tmp_path / "inference" / name / "sem_seg_predictions.json").read_text())
    rebuilt = [np.full(values.shape, -1) for values in labels]
    for segment in found:
        mask = pycocotools.mask.decode(segment["segmentation"])
        rebuilt[int(Path(segment["file_name"]).stem)][mask == 1] = segment["category_id"]
    assert all((a == b).all() for a, b in zip(rebuilt, guesses(labels), strict=True))


def test_complete_evaluator__counts_maps(tmp_path):
    labels = random_labels(3)
    name = make_dataset(tmp_path, labels)
    evaluator = CompleteEvaluator(MeanIoUEvaluator(name), name)
    evaluator.process(DatasetCatalog.get(name)[:2], [scores(values) for values in guesses(labels)[:2]])
    with pytest.raises(RuntimeError, match="of its 3 images, 1 were not evaluated"):
        evaluator.evaluate()


def evaluate_a_share(root: Path) -> dict | None:
    labels = random_labels(5)
    entry = {"NAME": "shared", "KIND": "semseg", "CLASSES": CLASSES}
    entry |= {"IMAGES": str(root / "images"), "LABELS": str(root / "labels")}
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    evaluator = CompleteEvaluator(MeanIoUEvaluator("shared"), "shared")
    records = DatasetCatalog.get("shared")
    for index in range(comm.get_rank(), 5, comm.get_world_size()):
        evaluator.process([records[index]], [scores(guesses(labels)[index])])
    return evaluator.evaluate()


def test_mean_iou__two_processes_together(tmp_path):
    labels = random_labels(5)
    make_dataset(tmp_path, labels)
    first, second = run_in_processes(evaluate_a_share, tmp_path)
    assert second is None
    assert first["sem_seg"] == pytest.approx(slow_metrics(labels, guesses(labels)))


def test_mean_iou__equals_cityscapes_own_script(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the script needs it, numpy 2.4 no longer has it
    by_train_id = {label.trainId: label.id for label in cityscapes_labels if 0 <= label.trainId < 255}
    train_ids = random_labels(3, classes=19)
    train_ids[0][0] = np.arange(17)
    train_ids[1][0, :2] = 17, 18
    for index, values in enumerate(train_ids):
        stem = f"town_{index:06d}_000019"
        gt = tmp_path / "gtFine" / "town"
        gt.mkdir(parents=True, exist_ok=True)
        images = tmp_path / "leftImg8bit" / "town"
        images.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", values.shape[::-1]).save(images / f"{stem}_leftImg8bit.png")
        # 4 is "static", one of the labels that are not evaluated.
        ids = np.vectorize(lambda value: by_train_id.get(value, 4))(values)
        Image.fromarray(values.astype(np.uint8)).save(gt / f"{stem}_gtFine_labelTrainIds.png")
        Image.fromarray(ids.astype(np.uint8)).save(gt / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(ids.astype(np.uint16)).save(gt / f"{stem}_gtFine_instanceIds.png")
        height, width = values.shape
        (gt / f"{stem}_gtFine_polygons.json").write_text(json.dumps({"imgHeight": height, "imgWidth": width}))
    name = new_name()
    folders = str(tmp_path / "leftImg8bit"), str(tmp_path / "gtFine")
    DatasetCatalog.register(name, lambda: load_cityscapes_semantic(*folders))
    builtin = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    MetadataCatalog.get(name).set(
        gt_dir=folders[1],
        ignore_label=builtin.ignore_label,
        stuff_classes=builtin.stuff_classes,
        evaluator_type=builtin.evaluator_type,
    )

    ours = build_evaluator(empty_config(OUTPUT_DIR=str(tmp_path)), name)
    assert type(ours.evaluator) is MeanIoUEvaluator
    # In the order of the files as the data set lists them.
    order = [int(Path(record["file_name"]).name.split("_")[1]) for record in DatasetCatalog.get(name)]
    predicted = [guesses(train_ids, 19)[index] for index in order]
    found, expected = (run(evaluator, name, predicted, 19) for evaluator in (ours, CityscapesSemSegEvaluator(name)))
    assert 20 < found["sem_seg"]["mIoU"] < 80
    assert found["sem_seg"]["mIoU"] == pytest.approx(expected["sem_seg"]["IoU"])

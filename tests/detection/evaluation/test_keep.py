import base64
import io
import itertools
import json
import random

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from mocodet.common.matches import read_matches
from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.build import build_evaluator
from mocodet.detection.evaluation.examples import CANDIDATES, CHOSEN, Candidates, choose
from tests.detection.tiny import SIZE, boxes, empty_config, make_coco, make_voc


def instances(*found: tuple[int, float, list[float]]) -> Instances:
    """Make detections of (class, score, box) each; their masks are whole boxes."""
    corners = torch.tensor([box for _, _, box in found], dtype=torch.float).reshape(-1, 4)
    masks = torch.zeros(len(found), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(corners),
        scores=torch.tensor([score for _, score, _ in found]),
        pred_classes=torch.tensor([kind for kind, _, _ in found], dtype=torch.long),
        pred_masks=masks,
    )


@pytest.mark.parametrize(("make", "tasks"), [(make_voc, {"bbox"}), (make_coco, {"bbox", "segm"})])
def test_keeping_evaluator__leaves_matches_and_examples(tmp_path, make, tasks):
    entry = make(tmp_path / "data", count=12)
    cfg = empty_config(
        MOCO__DATASETS=[entry],
        DATASETS__TEST=(entry["NAME"],),
        OUTPUT_DIR=str(tmp_path / "out"),
        MODEL__MASK_ON="segm" in tasks,
    )
    register_datasets(cfg)
    evaluator = build_evaluator(cfg, entry["NAME"])
    for index, (record, (_, *box)) in enumerate(zip(DatasetCatalog.get(entry["NAME"]), boxes(12), strict=True)):
        kind = record["annotations"][0]["category_id"]
        near = [box[0] + 1.5, *box[1:]]
        found = [(kind, 0.9 - index / 100, near), (1 - kind, 0.95, near), (kind, 0.2, [0, 0, 9, 9])][index % 2 :]
        evaluator.process([record], [{"instances": instances(*found)}])
    results = evaluator.evaluate()
    assert 0 < results["bbox"]["AP"] < 100
    matches = read_matches(tmp_path / "out" / "matches.npz")
    assert matches.keys() == tasks == results.keys()
    for task, of_task in matches.items():
        kept = {name: value.item() for name, value in of_task.metrics().items()}
        assert kept == pytest.approx({name: results[task][name] for name in kept}, abs=1e-9)

    images = json.loads((tmp_path / "out" / "examples.json").read_text())["images"]
    by_name = {str(record["image_id"]): record for record in DatasetCatalog.get(entry["NAME"])}
    assert len({image["name"] for image in images} & by_name.keys()) == CHOSEN
    for image in images:
        record = by_name[image["name"]]
        index = list(by_name).index(image["name"])
        kind, x0, y0, x1, y1 = boxes(12)[index]
        assert image["truth"] == [{"class": kind, "box": [x0, y0, x1, y1], "crowd": False}]
        scores = [0.95] if index % 2 else [0.95, pytest.approx(0.9 - index / 100, abs=1e-3)]
        assert [found["score"] for found in image["detections"]] == scores
        assert image["detections"][0]["box"] == [x0 + 1.5, y0, x1, y1]
        assert image["detections"][0]["class"] == {"cat": "dog", "dog": "cat"}[kind]
        with Image.open(io.BytesIO(base64.b64decode(image["jpeg"]))) as picture:
            assert picture.size == (image["width"], image["height"]) == (record["width"], record["height"])


def test_keeping_evaluator__several_data_sets_have_their_files_apart(tmp_path):
    entries = [make_voc(tmp_path / name) for name in "ab"]
    names = [entry["NAME"] for entry in entries]
    cfg = empty_config(MOCO__DATASETS=entries, DATASETS__TEST=tuple(names), OUTPUT_DIR=str(tmp_path / "out"))
    register_datasets(cfg)
    for name in names:
        evaluator = build_evaluator(cfg, name)
        records = DatasetCatalog.get(name)
        evaluator.process(records, [{"instances": instances()}] * len(records))
        assert evaluator.evaluate()["bbox"]["AP"] == 0
        assert read_matches(tmp_path / "out/inference" / name / "matches.npz")["bbox"].metrics()["AP"] == 0
        assert (tmp_path / "out/inference" / name / "examples.json").is_file()
    assert not (tmp_path / "out/matches.npz").exists()


def test_examples__large_images_become_small_and_boxes_with_them(tmp_path):
    entry = make_voc(tmp_path, count=1)
    path = tmp_path / "JPEGImages/train000.jpg"
    Image.open(path).resize((600, 300)).save(path)
    annotation = tmp_path / "Annotations/train000.xml"
    size = f"<width>{SIZE}</width><height>{SIZE}</height>"
    annotation.write_text(annotation.read_text().replace(size, "<width>600</width><height>300</height>"))
    cfg = empty_config(MOCO__DATASETS=[entry], OUTPUT_DIR=str(tmp_path / "out"))
    register_datasets(cfg)
    evaluator = build_evaluator(cfg, entry["NAME"])
    unsure = instances((0, 0.1, [0.0, 0.0, 9.0, 9.0]), (0, 0.2, [60.0, 30.0, 300.0, 250.0]))
    evaluator.process(DatasetCatalog.get(entry["NAME"]), [{"instances": unsure}])
    evaluator.evaluate()
    (image,) = json.loads((tmp_path / "out" / "examples.json").read_text())["images"]
    assert (image["width"], image["height"]) == (240, 120)
    (found,) = image["detections"]  # the best of those below the lowest score, since there is one object
    assert (found["score"], found["box"]) == (0.2, [24, 12, 120, 100])
    assert image["truth"][0]["box"] == [1.6, 3.2, 14.4, 16]  # of 4, 8, 36, 40


def test_examples__are_the_same_images_in_any_order_and_on_any_number_of_processes():
    with_objects = {f"{number}" for number in range(0, 100, 3)}
    records = {
        f"{number}": {"file_name": f"data/{number:06}.jpg", "image_id": number, "annotations": [1] * (not number % 3)}
        for number in range(100)
    }

    def chosen(processes: int, seed: int, folder: str = "data") -> list[str]:
        order = random.Random(seed).sample(sorted(records), len(records))
        parts = [Candidates() for _ in range(processes)]
        for place, name in enumerate(order):
            record = {**records[name], "file_name": records[name]["file_name"].replace("data", folder)}
            parts[place % processes].see(record, instances((0, 0.9, [0, 0, 9, 9])))
        assert all(len(part.kept) <= CANDIDATES for part in parts)
        return [candidate.image for candidate in choose(itertools.chain(*(part.kept for part in parts)), records)]

    first = chosen(1, seed=0)
    assert len(first) == CHOSEN
    assert set(first) <= with_objects
    assert chosen(1, seed=1) == chosen(3, seed=2, folder="elsewhere") == first
    with_objects.clear()
    for record in records.values():
        record["annotations"] = []
    assert len(chosen(2, seed=3)) == CHOSEN

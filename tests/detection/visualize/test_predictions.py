"""The evaluators themselves write the predictions, so that the tests read the same files as those of runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.build import build_evaluator
from mocodet.detection.evaluation.things import image_key
from mocodet.detection.visualize.predictions import class_names, ground_truth, index_records, read_run
from tests.detection.tiny import (
    CLASSES,
    SEGMENTS,
    SIZE,
    boxes,
    empty_config,
    make_coco,
    make_semseg,
    make_voc,
    new_name,
)

COUNT = 3


def detections(index: int) -> Instances:
    """The object of an image, slightly moved, and a box on nothing."""
    name, *box = boxes(COUNT)[index]
    found = torch.tensor([box, [1, 2, 9, 12]], dtype=torch.float) + torch.tensor([0.25, -0.5, 0.5, 1.0])
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    masks[0, box[1] : box[3], box[0] : box[2]] = True
    masks[1, 2:12, 1:9] = True
    classes = torch.tensor([CLASSES.index(name), 1])
    scores = torch.tensor([0.875, 0.125])
    return Instances((SIZE, SIZE), pred_boxes=Boxes(found), scores=scores, pred_classes=classes, pred_masks=masks)


def labels_of(record: dict) -> np.ndarray:
    return np.array(Image.open(record["sem_seg_file_name"]))


def evaluated(entry: dict, output: Path) -> tuple[str, list[dict]]:
    """Evaluate the detections above, or the true labels with ignored pixels as the last class."""
    name = entry["NAME"]
    cfg = empty_config(MOCO__DATASETS=[entry], OUTPUT_DIR=str(output), MODEL__MASK_ON=entry["KIND"] == "coco")
    register_datasets(cfg)
    records = DatasetCatalog.get(name)
    evaluator = build_evaluator(cfg, name)
    for index, record in enumerate(records):
        if entry["KIND"] == "semseg":
            classes = torch.from_numpy(labels_of(record)).clamp(max=len(SEGMENTS) - 1)
            scores = torch.nn.functional.one_hot(classes.long(), len(SEGMENTS))
            evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
        else:
            evaluator.process([record], [{"instances": detections(index)}])
    evaluator.evaluate()
    return name, records


@pytest.fixture(scope="module", params=["voc", "coco"])
def detected(request, tmp_path_factory) -> tuple[str, list[dict], Path]:
    """Name and records of a data set, and the OUTPUT_DIR of a run that was evaluated on it."""
    make = {"voc": make_voc, "coco": make_coco}[request.param]
    output = tmp_path_factory.mktemp("run")
    return *evaluated(make(tmp_path_factory.mktemp("data"), COUNT), output), output


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> tuple[str, list[dict], Path]:
    output = tmp_path_factory.mktemp("run")
    return *evaluated(make_semseg(tmp_path_factory.mktemp("data"), 2), output), output


def test_read_run__detections_come_back(detected):
    name, records, output = detected
    run = read_run("moco", output, name, records)
    assert run.keys() == {image_key(record) for record in records}
    for index, record in enumerate(records):
        found, expected = run[image_key(record)], detections(index)
        found = sorted(found, key=lambda thing: -thing.score)
        assert [thing.category for thing in found] == expected.pred_classes.tolist()
        assert [thing.score for thing in found] == pytest.approx(expected.scores.tolist(), abs=5e-4)
        boxes_found = np.array([thing.box for thing in found])
        assert boxes_found == pytest.approx(expected.pred_boxes.tensor.numpy(), abs=0.0501)  # VOC keeps one decimal
        if found[0].mask is not None:
            for thing, mask in zip(found, expected.pred_masks.numpy(), strict=True):
                assert np.array_equal(mask_util.decode(thing.mask), mask)
        (truth,) = ground_truth(record, name)
        true_class, *true_box = boxes(COUNT)[index]
        assert (class_names(name)[truth.category], list(truth.box)) == (true_class, true_box)
        assert truth.score is None
    assert ("segmentation" in records[0]["annotations"][0]) == (found[0].mask is not None)


def test_read_run__takes_the_run_its_folder_or_its_file(detected):
    name, records, output = detected
    folder = output / "inference" / name
    paths = [output, folder, *folder.glob("coco_instances_results.json")]
    counts = {path: {key: len(found) for key, found in read_run("a", path, name, records).items()} for path in paths}
    assert all(found == counts[output] for found in counts.values())


def test_read_run__lvis_has_a_file_name_of_its_own(tmp_path):
    name = new_name()
    json_file = make_coco(tmp_path / "data", 1)["JSON"]
    MetadataCatalog.get(name).set(json_file=json_file, evaluator_type="lvis", thing_classes=list(CLASSES))
    result = {"image_id": 0, "category_id": 5, "score": 1.0, "bbox": [1, 2, 3, 4]}
    (tmp_path / "lvis_instances_results.json").write_text(json.dumps([result]))
    ((thing,),) = read_run("a", tmp_path, name, []).values()
    assert class_names(name)[thing.category] == "dog"


def test_read_run__keypoints_are_points_again(tmp_path):
    entry = make_coco(tmp_path / "data", 1)
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    records = DatasetCatalog.get(entry["NAME"])
    result = {"image_id": 0, "category_id": 5, "score": 1.0, "bbox": [1, 2, 3, 4], "keypoints": [6, 7, 0.5, 8, 9, 0.25]}
    (tmp_path / "found.json").write_text(json.dumps([result]))
    ((thing,),) = read_run("a", tmp_path / "found.json", entry["NAME"], records).values()
    assert thing.keypoints.tolist() == [[6.5, 7.5, 0.5], [8.5, 9.5, 0.25]]
    assert (thing.category, thing.box) == (1, [1, 2, 4, 6])


def test_read_run__regions_come_back(segmented):
    name, records, output = segmented
    run = read_run("moco", output, name, records)
    for record in records:
        labels, key = labels_of(record), image_key(record)
        predicted = np.full(labels.shape, -1)
        for thing in run[key]:
            assert thing.score is None
            predicted[mask_util.decode(thing.mask) == 1] = thing.category
        assert np.array_equal(predicted, labels.clip(max=len(SEGMENTS) - 1))
        true = np.full(labels.shape, 255)
        for thing in ground_truth(record, name):
            true[thing.mask] = thing.category
        assert np.array_equal(true, labels)


def broken(segmented: tuple[str, list[dict], Path], folder: Path, **change: object) -> Path:
    name, _, output = segmented
    regions = json.loads((output / "inference" / name / "sem_seg_predictions.json").read_text())
    regions[1].update(change)
    (folder / "sem_seg_predictions.json").write_text(json.dumps(regions))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "elsewhere.png"}, "region 1 refers to image 'elsewhere.png', which is not in the data set"),
        ({"category_id": 9}, "region 1 refers to category 9, which is not in the data set"),
        ({"category_id": [1]}, r"region 1 refers to category \[1\], which is not in the data set"),
        ({"segmentation": None}, "region 1 has a mask without a size"),
        (
            {"segmentation": {"size": [90, 90], "counts": [8100]}},
            "region 1 has a mask that is not in compressed run-length encoding",
        ),
        (
            {"segmentation": {"size": [9000, 9000], "counts": "52203"}},
            "run lengths do not add up to its 9000 x 9000 pixels",
        ),
    ],
)
def test_read_run__region_that_cannot_be(segmented, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_run("a", broken(segmented, tmp_path, **change), *segmented[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("{}", "must contain a list of regions, found a dict"), ("[3]", "region 0 must be")],
)
def test_read_run__regions_that_are_none(segmented, tmp_path, text, message):
    (tmp_path / "sem_seg_predictions.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run("a", tmp_path, *segmented[:2])


def test_read_run__no_predictions(detected, segmented, tmp_path):
    for name, records, _ in (detected, segmented):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            read_run("a", tmp_path / "gone", name, records)


def test_read_run__classes_that_were_left_out_are_ignored(tmp_path):
    entry = make_coco(tmp_path / "data", 1) | {"CLASSES": ["cat"]}
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    records = DatasetCatalog.get(entry["NAME"])
    found = [{"image_id": 0, "category_id": number, "bbox": [1, 2, 3, 4], "score": 0.5} for number in (3, 5)]
    (tmp_path / "coco_instances_results.json").write_text(json.dumps(found))
    (thing,) = read_run("run", tmp_path, entry["NAME"], records)["0"]
    assert (thing.category, thing.box) == (0, [1, 2, 4, 6])


def test_read_run__category_of_another_data_set(tmp_path):
    entry = make_coco(tmp_path / "data", 1)
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    result = {"image_id": 0, "category_id": 90, "score": 1.0, "bbox": [1, 2, 3, 4]}
    (tmp_path / "found.json").write_text(json.dumps([result]))
    with pytest.raises(ValueError, match="refers to category 90, which is not in the data set"):
        read_run("a", tmp_path / "found.json", entry["NAME"], DatasetCatalog.get(entry["NAME"]))


def test_read_run__nothing_found_is_said(tmp_path, caplog):
    entry = make_coco(tmp_path / "data", 1)
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    (tmp_path / "found.json").write_text("[]")
    run = read_run("shy", tmp_path / "found.json", entry["NAME"], DatasetCatalog.get(entry["NAME"]))
    assert not any(run.values())
    assert "shy: " in caplog.text
    assert "contains no predictions" in caplog.text


@pytest.mark.parametrize(
    ("evaluator_type", "message"),
    [
        (
            "densepose",
            "the evaluator type 'densepose', for which runs save no predictions to draw; the supported types are",
        ),
        ("panoptic", "has the evaluator type 'panoptic'; the supported types are cityscapes_instance, "),
    ],
)
def test_read_run__kind_of_which_nothing_is_kept(tmp_path, evaluator_type, message):
    name = new_name()
    MetadataCatalog.get(name).evaluator_type = evaluator_type
    with pytest.raises(ValueError, match=message):
        read_run("a", tmp_path, name, [])


def test_index_records__same_name_twice():
    records = [{"file_name": "a/x.png"}, {"file_name": "b/x.png"}, {"file_name": "c/y.png", "image_id": 7}]
    assert index_records(records[1:], "mine") == {"x": records[1], "7": records[2]}
    with pytest.raises(ValueError, match="data set mine has multiple images with the name x"):
        index_records(records, "mine")

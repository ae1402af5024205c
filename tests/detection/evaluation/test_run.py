import json
import re
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from mocodet.detection.data import register_datasets
from mocodet.detection.evaluation.kinds.semseg import MeanIoUEvaluator
from mocodet.detection.evaluation.kinds.voc import VOCEvaluator
from tests.commands import evaluate
from tests.detection.tiny import CLASSES, SIZE, boxes, empty_config, make_coco, make_voc, new_name

COUNT = 4
SMALL = {"size": [1, 1], "counts": "01"}  # one pixel


@pytest.fixture
def voc(tmp_path) -> tuple[dict, dict[str, float]]:
    """A VOC data set, detections of it in ``inference/<name>``, and their results."""
    entry = make_voc(tmp_path / "data", COUNT)
    register_datasets(empty_config(MOCO__DATASETS=[entry]))
    evaluator = VOCEvaluator(entry["NAME"], str(tmp_path / "inference" / entry["NAME"]))
    for index, (kind, *box) in enumerate(boxes(COUNT)):
        found = Instances(
            (SIZE, SIZE),
            pred_boxes=Boxes(torch.tensor([box, box]) + 2.0 * index),
            scores=torch.tensor([0.9, 0.8]),
            pred_classes=torch.tensor([CLASSES.index(kind), 0]),
        )
        evaluator.process([{"image_id": f"train{index:03d}"}], [{"instances": found}])
    return entry, evaluator.evaluate()["bbox"]


@pytest.fixture
def coco(tmp_path) -> tuple[str, list[dict]]:
    """The annotations of a COCO data set, and a prediction for each object: the object itself, with a mask."""
    entry = make_coco(tmp_path / "data", COUNT)
    truth = json.loads(Path(entry["JSON"]).read_text())
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in truth["annotations"]
    ]
    return entry["JSON"], results


def save(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def message(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as error:
        evaluate(arguments)
    assert "\n" not in error.value.code
    return error.value.code


def test_evaluate__voc_folder(tmp_path, voc, capsys):
    entry, results = voc
    folder = tmp_path / "inference" / entry["NAME"]
    truth = ["--voc-root", entry["ROOT"], "--split", "train", "--classes", *CLASSES]
    evaluate([str(folder), *truth, "--output", str(tmp_path / "out" / "results.json")])
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(written.values()) == [{"bbox": results}]
    printed = capsys.readouterr().out
    assert printed.startswith(f"{2 * COUNT} predictions on ")
    assert f"| dog     | {results['AP-dog']:.2f} |" in printed


def test_evaluate__data_set_by_name_by_config_and_by_folder(tmp_path, voc, capsys):
    entry, _ = voc
    folder = str(tmp_path / "inference" / entry["NAME"])
    config = tmp_path / "mine.yaml"
    config.write_text(json.dumps({"MOCO": {"DATASETS": [entry]}, "DATASETS": {"TEST": ["another", entry["NAME"]]}}))
    evaluate([folder, "--dataset", entry["NAME"]])
    evaluate([folder, "--config-file", str(config)])
    evaluate([folder, "--config-file", str(config), "--dataset", entry["NAME"]])
    pair = ["DATASETS.TEST", f"('{entry['NAME']}',)"]
    evaluate([folder, "--config-file", str(config), *pair])
    evaluate(["--config-file", str(config), folder, *pair, "--dataset", entry["NAME"]])
    first, *others = capsys.readouterr().out.split(f"{2 * COUNT} predictions on ")[1:]
    assert others == [first] * 4
    elsewhere = (tmp_path / "inference" / entry["NAME"]).rename(tmp_path / "elsewhere")
    assert "specify one data set with --dataset NAME" in message([str(elsewhere), "--config-file", str(config)])


def test_evaluate__a_run_with_predictions_on_another_data_set(tmp_path, voc):
    entry, _ = voc
    evaluate([str(tmp_path), "--dataset", entry["NAME"]])
    truth = ["--voc-root", entry["ROOT"], "--split", "train", "--classes", *CLASSES]
    assert re.search(
        rf"has predictions on {entry['NAME']}, but not on .* train; .* specify the folder",
        message([str(tmp_path), *truth]),
    )


def test_evaluate__voc_class_without_ground_truth(tmp_path, voc, caplog):
    entry, results = voc
    folder = tmp_path / "inference" / entry["NAME"]
    (folder / "unicorn.txt").write_text("train000 0.5 1 2 3 4\n")
    truth = [str(folder), "--voc-root", entry["ROOT"], "--split", "train", "--classes", *CLASSES, "unicorn"]
    evaluate([*truth, "--output", str(tmp_path / "results.json")])
    (written,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert written["bbox"]["AP"] == pytest.approx(results["AP"] * 2 / 3)
    assert "is not a number" in message([*truth, "--year", "2012"])
    assert f"The means over the other 2 classes are AP {results['AP']:.2f}" in caplog.text


def test_evaluate__coco_json(tmp_path, coco, capsys):
    truth, results = coco
    predictions = save(tmp_path / "results.json", results)
    evaluate([predictions, "--json", truth])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{COUNT} predictions on {truth}\n\nbbox\n\n|     AP |   AP50 |")
    assert "| 100.00 | 100.00 | 100.00 |" in printed
    assert "segm" not in printed
    masks = {"segmentation": mask_util.encode(np.ones((SIZE, SIZE), dtype=np.uint8, order="F"))}
    masks["segmentation"]["counts"] = masks["segmentation"]["counts"].decode()
    for result in results:
        del result["bbox"]
    only_masks = save(tmp_path / "masks.json", [result | masks for result in results])
    evaluate([only_masks, "--json", truth])
    assert "bbox" not in capsys.readouterr().out
    assert "has no segmentation, which the task segm requires" in message(
        [predictions, "--json", truth, "--tasks", "segm"]
    )


def test_evaluate__coco_without_predictions(tmp_path, coco, caplog, capsys):
    truth, _ = coco
    evaluate([save(tmp_path / "results.json", []), "--json", truth])
    assert "predicted no objects on" in caplog.text
    assert "|   0.00 |   0.00 |" in capsys.readouterr().out


def test_evaluate__coco_json_that_is_lvis(tmp_path, coco):
    truth, results = coco
    content = json.loads(Path(truth).read_text())
    content["images"] = [image | {"neg_category_ids": [5]} for image in content["images"]]
    lvis = save(tmp_path / "lvis.json", content)
    found = message([save(tmp_path / "results.json", results), "--json", lvis])
    assert "contains LVIS annotations" in found
    assert "--dataset lvis_v0.5_val" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_id": 77}, "prediction 1 refers to image 77, which is not in the data set"),
        ({"image_id": [1]}, "prediction 1 refers to image [1], which"),
        ({"category_id": 4}, "prediction 1 refers to category 4, which is not in the data set"),
        ({"score": float("nan")}, "prediction 1 has the score nan, which is not a finite number"),
        ({"score": "0.5"}, "prediction 1 has the score '0.5'"),
        ({"score": 10**400}, "prediction 1 has the score 100000000000000000...0000000000000000000, which is not"),
        ({"bbox": [1, 2, 3, 10**400]}, "prediction 1 has the box [1, 2, 3, 100000000000000000...0"),
        ({"image_id": "a" * 100}, f"prediction 1 refers to image '{'a' * 100}', which"),
        (
            {"bbox": [1, 2, -3, 4]},
            "prediction 1 has the box [1, 2, -3, 4]; expected finite numbers x, y, width, height",
        ),
        ({"bbox": [1, 2, 3]}, "prediction 1 has the box [1, 2, 3]"),
        ({"keypoints": [1, 2]}, "prediction 0 lacks keypoints"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "1"}}, "prediction 0 lacks segmentation"),
    ],
)
def test_evaluate__malformed_prediction(tmp_path, coco, change, expected):
    truth, results = coco
    results[1] |= change
    assert expected in message([save(tmp_path / "results.json", results), "--json", truth])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 2, 3, 4, 5, 6]], "has a mask that is not in compressed run-length encoding"),
        ({"size": [3, 3], "counts": "9"}, f"has a mask of size [3, 3] in an image of size [{SIZE}, {SIZE}]"),
        ({"size": [SIZE, SIZE], "counts": "9"}, f"whose run lengths do not add up to its {SIZE} x {SIZE} pixels"),
        ({"size": [SIZE, SIZE], "counts": "P"}, "whose run lengths do not add up"),
    ],
)
def test_evaluate__malformed_mask(tmp_path, coco, mask, expected):
    truth, results = coco
    results = [{**result, "segmentation": mask} for result in results]
    assert expected in message([save(tmp_path / "results.json", results), "--json", truth])


def test_evaluate__incomplete_pth(tmp_path, coco):
    truth, _ = coco
    torch.save([{"image_id": 0, "instances": []}], tmp_path / "instances_predictions.pth")
    assert "is incomplete: 3 of the 4 images were not evaluated" in message([str(tmp_path), "--json", truth])
    torch.save({"image_id": 0}, tmp_path / "instances_predictions.pth")
    assert "must contain a list of images with image_id and instances" in message([str(tmp_path), "--json", truth])


def test_evaluate__files_that_are_missing_or_foreign(tmp_path, coco):
    truth, results = coco
    predictions = save(tmp_path / "results.json", results)
    (tmp_path / "empty").mkdir()
    assert "the predictions file" in message([str(tmp_path / "none.json"), "--json", truth])
    assert "contains neither coco_instances_results.json" in message([str(tmp_path / "empty"), "--json", truth])
    assert "the annotation file" in message([predictions, "--json", str(tmp_path / "none.json")])
    assert "it is a list of predictions (COCO results format); specify the annotation file" in message(
        [predictions, "--json", predictions]
    )
    assert "must contain a list of predictions, found a dict" in message([truth, "--json", truth])
    assert "is not JSON (" in message([__file__, "--json", truth])


def test_evaluate__predictions_that_are_nested_too_deeply(tmp_path, coco):
    path = tmp_path / "results.json"
    path.write_text("[" * 100_000)
    assert f"{path} is not JSON (it is nested too deeply)" in message([str(path), "--json", coco[0]])


def test_evaluate__a_byte_order_mark_is_accepted(tmp_path, coco, capsys):
    truth, results = coco
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8-sig")
    evaluate([str(path), "--json", truth])
    assert "| 100.00 | 100.00 | 100.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            [],
            "given by --dataset or --config-file, by --json or by --voc-root; got none of them",
        ),
        (["--json", "a", "--voc-root", "x", "--classes", "a"], "got --json and --voc-root"),
        (["--json", "a", "--config-file", "x"], "got --json and --dataset or --config-file"),
        (["--voc-root", "x"], "--voc-root and --classes must be used together"),
        (["--json", "a", "--split", "val"], "--split and --year can only be used with --voc-root"),
        (["--dataset", "a", "--year", "2012"], "--split and --year can only be used with --voc-root"),
        (
            ["--json", "a", "SEED", "1"],
            "SEED 1 after PREDICTIONS; KEY VALUE pairs can only be used with --config-file",
        ),
        (["--opts", "SEED", "1", "--config-file", "x"], "unrecognized arguments: --opts"),
    ],
)
def test_evaluate__flags_that_do_not_go_together(flags, expected, capsys):
    with pytest.raises(SystemExit) as error:
        evaluate(["results.json", *flags])
    assert error.value.code == 2
    assert expected in capsys.readouterr().err


def test_evaluate__data_set_or_key_that_there_is_not(tmp_path, coco):
    predictions = save(tmp_path / "results.json", coco[1])
    assert "defines a data set named nowhere" in message([predictions, "--dataset", "nowhere"])
    config = save(tmp_path / "config.yaml", {"SEED": 1})
    assert "unknown key SEEDS; did you mean SEED?" in message([predictions, "--config-file", config, "SEEDS", "-1"])


@pytest.mark.parametrize(
    ("evaluator_type", "flags", "expected"),
    [
        ("densepose", [], "can be evaluated only for cityscapes_sem_seg, coco, lvis, pascal_voc, sem_seg"),
        ("unheard", [], "has the evaluator type 'unheard'; the supported types are cityscapes_instance, "),
        ("pascal_voc", ["--tasks", "bbox"], "supports no choice"),
    ],
)
def test_evaluate__kinds_that_cannot(tmp_path, evaluator_type, flags, expected):
    name = new_name()
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type=evaluator_type)
    assert expected in message([str(tmp_path), "--dataset", name, *flags])


@pytest.fixture
def maps(tmp_path) -> tuple[str, Path, dict[str, float]]:
    """A data set of label maps, predictions of it in a folder, and their results."""
    rng, name, records = np.random.default_rng(0), new_name(), []
    for index in range(2):
        image, labels = tmp_path / f"{index}.jpg", tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(image)
        Image.fromarray(rng.choice([0, 1, 2, 255], (SIZE, SIZE)).astype(np.uint8)).save(labels)
        records.append({"file_name": str(image), "sem_seg_file_name": str(labels), "height": SIZE, "width": SIZE})
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=["a", "b", "c"], ignore_label=255, evaluator_type="sem_seg")
    evaluator = MeanIoUEvaluator(name, str(tmp_path / "inference"))
    evaluator.reset()
    for record in records:
        scores = torch.from_numpy(rng.random((3, SIZE, SIZE)))
        evaluator.process([record], [{"sem_seg": scores}])
    return name, tmp_path / "inference", evaluator.evaluate()["sem_seg"]


def test_evaluate__maps_of_classes(tmp_path, maps, capsys):
    name, folder, results = maps
    evaluate([str(folder), "--dataset", name, "--output", str(tmp_path / "results.json")])
    assert json.loads((tmp_path / "results.json").read_text())[name]["sem_seg"] == pytest.approx(results)
    assert f"| b       | {results['IoU-b']:.2f} |" in capsys.readouterr().out


def test_evaluate__maps_whose_classes_have_ids(maps):
    name, folder, results = maps
    MetadataCatalog.get(name).stuff_dataset_id_to_contiguous_id = {7: 0, 11: 1, 24: 2}
    file = folder / "sem_seg_predictions.json"
    parts = [part | {"category_id": (7, 11, 24)[part["category_id"]]} for part in json.loads(file.read_text())]
    save(file, parts)
    assert MeanIoUEvaluator(name).evaluate_saved(folder)[0]["sem_seg"] == pytest.approx(results)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda parts: parts[3:], "contains class maps of 1 images, but data set"),
        (lambda parts: parts[1:], "pixels have no class or more than one"),
        (lambda parts: [*parts, parts[0]], "pixels have no class or more than one"),
        (
            lambda parts: [parts[0] | {"category_id": 9}, *parts[1:]],
            "region 0 refers to category 9, which is not in the data set",
        ),
        (lambda parts: [parts[0] | {"segmentation": {}}, *parts[1:]], "region 0 has a mask without a size"),
        (
            lambda parts: [parts[0] | {"segmentation": SMALL}, *parts[1:]],
            "is malformed: it has masks of sizes [1, 1]",
        ),
        (lambda parts: {"a": 1}, "must contain a list of regions, found a dict"),
        (
            lambda parts: [parts[0] | {"file_name": "x.jpg"}, *parts],
            "region 0 refers to image 'x.jpg', which is not in the data set",
        ),
    ],
)
def test_evaluate__malformed_maps(maps, change, expected):
    name, folder, _ = maps
    file = folder / "sem_seg_predictions.json"
    save(file, change(json.loads(file.read_text())))
    assert expected in message([str(file), "--dataset", name])

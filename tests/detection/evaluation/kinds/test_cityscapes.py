import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official  # noqa: N813
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from mocodet.detection.evaluation.kinds import KINDS
from mocodet.detection.evaluation.kinds.cityscapes import CityscapesInstanceEvaluator
from tests.detection.tiny import new_name
from tests.processes import run_in_processes

HEIGHT, WIDTH = 40, 80
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
PERSON, CAR, ROAD, VOID = 24, 26, 7, 1  # Cityscapes' label ids
Box = tuple[int, int, int, int]  # rows from, to, columns from, to

# Two images with two persons of 20 x 10 pixels each; the first also has a car and a strip that is not scored.
TRUTH: dict[str, dict[int, Box]] = {
    "ulm_000000_000019": {
        VOID: (36, 40, 0, 80),
        1000 * PERSON: (5, 25, 5, 15),
        1000 * PERSON + 1: (5, 25, 30, 40),
        1000 * CAR: (10, 30, 55, 75),
    },
    "ulm_000001_000019": {1000 * PERSON: (0, 20, 0, 10), 1000 * PERSON + 1: (10, 30, 60, 70)},
}


# Only detectron2's reader of the annotations needs shapely, which these tests do not use.
WITHOUT_SHAPELY = replace(KINDS["cityscapes_instance"], packages=("cityscapesscripts",))


@pytest.fixture(autouse=True)
def without_shapely(monkeypatch):
    monkeypatch.setitem(KINDS, "cityscapes_instance", WITHOUT_SHAPELY)


def register(root: Path) -> str:
    folder = root / "gtFine" / "val" / "ulm"
    folder.mkdir(parents=True)
    for stem, objects in TRUTH.items():
        ids = np.full((HEIGHT, WIDTH), ROAD, dtype=np.uint16)
        for instance, (top, bottom, left, right) in objects.items():
            ids[top:bottom, left:right] = instance
        Image.fromarray(ids).save(folder / f"{stem}_gtFine_instanceIds.png")
    name = new_name()
    MetadataCatalog.get(name).set(thing_classes=list(CLASSES), gt_dir=str(root / "gtFine" / "val"))
    return name


def truth() -> dict[str, list[tuple[str, float, Box]]]:
    """Detections that are right: (class, score, box) of each image."""
    names = {PERSON: "person", CAR: "car"}
    return {
        stem: [(names[instance // 1000], 0.9, box) for instance, box in objects.items() if instance >= 1000]
        for stem, objects in TRUTH.items()
    }


def instances(found: list[tuple[str, float, Box]]) -> Instances:
    masks = torch.zeros(len(found), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (_, _, (top, bottom, left, right)) in zip(masks, found, strict=True):
        mask[top:bottom, left:right] = True
    corners = [[left, top, right, bottom] for _, _, (top, bottom, left, right) in found]
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(corners, dtype=torch.float).reshape(-1, 4)),
        scores=torch.tensor([score for _, score, _ in found]),
        pred_classes=torch.tensor([CLASSES.index(name) for name, _, _ in found], dtype=torch.long),
        pred_masks=masks,
    )


def evaluate(name: str, found: dict[str, list], output: str | None = None) -> dict[str, float] | None:
    evaluator = CityscapesInstanceEvaluator(name, output)
    evaluator.reset()
    for stem, mine in found.items():
        file_name = f"{stem}_leftImg8bit.png"
        evaluator.process([{"file_name": file_name, "image_id": file_name}], [{"instances": instances(mine)}])
    results = evaluator.evaluate()
    return results and results["segm"]


def test_cityscapes_evaluator__perfect(tmp_path):
    found = evaluate(register(tmp_path), truth())
    assert {metric: found[metric] for metric in ("AP", "AP50", "AP-person", "AP-car", "AP50-car")} == {
        "AP": 100,
        "AP50": 100,
        "AP-person": 100,
        "AP-car": 100,
        "AP50-car": 100,
    }
    assert math.isnan(found["AP-bus"])  # not part of the mean
    assert set(found) == {f"{metric}{name}" for metric in ("AP", "AP50") for name in ("", *(f"-{c}" for c in CLASSES))}


def test_cityscapes_evaluator__an_object_not_found(tmp_path):
    found = truth()
    found["ulm_000001_000019"].pop()
    # Three of four persons are found, without mistakes: precision 1 up to a recall of three quarters.
    assert evaluate(register(tmp_path), found)["AP-person"] == pytest.approx(75)


def test_cityscapes_evaluator__thresholds(tmp_path):
    found = truth()
    name, score, (top, bottom, left, right) = found["ulm_000000_000019"][2]
    found["ulm_000000_000019"][2] = (name, score, (top, bottom - 7, left, right))  # 13 of 20 rows: an IoU of 0.65
    results = evaluate(register(tmp_path), found)
    assert name == "car"
    # Above 0.5, 0.55 and 0.6, not above 0.65.
    assert results["AP-car"] == pytest.approx(30)
    assert results["AP50-car"] == pytest.approx(100)
    assert results["AP"] == pytest.approx((30 + 100) / 2)


@pytest.mark.parametrize(("rows", "expected"), [((36, 40), 100.0), ((31, 35), 25.0)])
def test_cityscapes_evaluator__detections_of_what_is_not_scored(tmp_path, rows, expected):
    found = truth()
    # Scored higher than the car itself, and wrong unless it lies on an unscored region: the precision is 0 at recall 0
    # and 1/2 at recall 1, and the script interpolates linearly.
    found["ulm_000000_000019"].append(("car", 0.95, (*rows, 0, 80)))
    assert evaluate(register(tmp_path), found)["AP-car"] == pytest.approx(expected)


def test_cityscapes_evaluator__no_detection_is_zero(tmp_path):
    results = evaluate(register(tmp_path), {stem: [] for stem in TRUTH})
    assert results["AP"] == results["AP50"] == 0


def test_cityscapes_evaluator__an_image_without_a_file(tmp_path, capsys):
    found = truth()
    found.popitem()
    with pytest.raises(RuntimeError, match=r"cityscapesScripts failed on .*gtFine"):
        evaluate(register(tmp_path), found)
    assert "Found no prediction" in capsys.readouterr().out


def test_cityscapes_evaluator__leaves_its_detections_and_nothing_else(tmp_path, monkeypatch):
    name = register(tmp_path)
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    evaluate(name, truth(), str(tmp_path / "out"))
    assert list(working.iterdir()) == []  # the script would write matches.json
    assert (official.np, official.args.quiet) == (np, False)
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert sorted(result["image_id"] for result in saved) == sorted(
        f"{stem}_leftImg8bit.png" for stem, found in truth().items() for _ in found
    )


def _half(name: str, root: str) -> dict[str, float] | None:
    """Evaluate one of the two images in each process."""
    from detectron2.utils import comm

    KINDS["cityscapes_instance"] = WITHOUT_SHAPELY
    MetadataCatalog.get(name).set(thing_classes=list(CLASSES), gt_dir=str(Path(root) / "gtFine" / "val"))
    stem = list(TRUTH)[comm.get_rank()]
    found = truth()[stem][1:] if comm.get_rank() else truth()[stem]
    return evaluate(name, {stem: found}, str(Path(root) / "out"))


def test_cityscapes_evaluator__two_processes_share_the_images(tmp_path):
    name = register(tmp_path)
    main, other = run_in_processes(_half, name, str(tmp_path))
    assert main["AP-person"] == pytest.approx(75)
    assert main["AP-car"] == pytest.approx(100)
    assert other is None
    assert len(json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())) == 4


def test_cityscapes_evaluator__not_installed(tmp_path, monkeypatch):
    kind = replace(KINDS["cityscapes_instance"], packages=("no_such_package",), install="pip install this")
    monkeypatch.setitem(KINDS, "cityscapes_instance", kind)
    with pytest.raises(ValueError, match=r"requires the packages no_such_package, .* with: +pip install this$"):
        CityscapesInstanceEvaluator(register(tmp_path))

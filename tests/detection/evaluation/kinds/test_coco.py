import contextlib
import copy
import io
import json
import math
from pathlib import Path

import faster_coco_eval
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mocodet.common.formats.hold_out import HoldOut
from mocodet.common.matches import Matches
from mocodet.detection.evaluation.coco_matches import coco_matches
from mocodet.detection.evaluation.coco_results import mask_fault
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator, check_coco_ground_truth, evaluate_task
from tests.detection.tiny import empty_config, new_name

SIZE = 128  # COCO's small objects are below 32 x 32, its large ones above 96 x 96
CATEGORIES = (2, 3, 7)
SIGMAS = (0.05, 0.1, 0.2)

corner = st.sampled_from([0, 8, 16, 24, 32]) | st.floats(0, 40, width=32)
side = st.sampled_from([0, 8, 31, 32, 33, 95, 96]) | st.floats(1, 88, width=32)
score = st.sampled_from([0.1, 0.5, 0.9]) | st.floats(0, 1)
place = st.floats(-10, SIZE + 10)


def mask(box: list[float]) -> dict:
    """The pixels of a box, run-length encoded."""
    x, y, width, height = (round(value) for value in box)
    pixels = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    encoded = mask_util.encode(pixels)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@st.composite
def keypoints(draw: st.DrawFn) -> list[float]:
    return [value for _ in SIGMAS for value in (draw(place), draw(place), draw(st.integers(0, 2)))]


box = st.tuples(corner, corner, side, side).map(list)
category = st.sampled_from(CATEGORIES)
# Areas in annotations are those of masks, not of boxes. Here they are arbitrary, often at the boundaries.
area = st.sampled_from([0, 32**2 - 1, 32**2, 32**2 + 1, 96**2 - 1, 96**2, 96**2 + 1]) | st.floats(1, 1e5)


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[dict, list[dict]]:
    """Annotations and predictions; images and categories may have none of either."""
    ids = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True))
    annotations, results = [], []
    for image in ids:
        for _ in range(draw(st.integers(0, 4))):
            outline, points = draw(box), draw(keypoints())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": draw(category),
                    "bbox": outline,
                    "segmentation": mask(outline),
                    "keypoints": points,
                    "num_keypoints": sum(v > 0 for v in points[2::3]),
                    "area": draw(area),
                    "iscrowd": int(draw(st.integers(0, 4)) == 0),
                }
            )
        likely = [(a["category_id"], a["bbox"], a["keypoints"]) for a in annotations if a["image_id"] == image]
        anything = st.tuples(category, box, keypoints())
        for _ in range(draw(st.integers(0, 6))):
            kind, outline, points = draw(st.sampled_from(likely) | anything if likely else anything)
            shape = {"bbox": outline, "segmentation": mask(outline), "keypoints": points}
            results.append({"image_id": image, "category_id": kind, "score": draw(score), **shape})
    images = [{"id": image, "height": SIZE, "width": SIZE, "file_name": f"{image}.jpg"} for image in ids]
    categories = [{"id": number, "name": f"category {number}"} for number in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def pycocotools(dataset: dict, results: list[dict], task: str, max_dets: tuple[int, ...]) -> COCOeval:
    """Evaluate as detectron2 does with pycocotools."""
    dataset, results = json.loads(json.dumps([dataset, results]))
    if task == "segm":
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        else:
            evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        if max_dets[-1] == 100 or task == "keypoints":  # pycocotools can only tell of 100 and 20
            evaluation.summarize()
    return evaluation


def check_matches(found: Matches, theirs: COCOeval) -> None:
    """Compare each detection with the result of pycocotools."""
    of_all_areas = [image for image in theirs.evalImgs if image and image["aRng"] == theirs.params.areaRng[0]]
    for place, category in enumerate(sorted(CATEGORIES)):
        images = [image for image in of_all_areas if image["category_id"] == category]
        own = slice(found.begin[place], found.begin[place + 1])
        scores = np.concatenate([[], *(image["dtScores"] for image in images)])
        order = np.argsort(-scores, kind="mergesort")
        matched, ignored = (
            np.concatenate([np.empty((10, 0)), *(image[key] for image in images)], axis=1)[:, order].astype(bool)
            for key in ("dtMatches", "dtIgnore")
        )
        np.testing.assert_allclose(found.score[own], scores[order])
        np.testing.assert_array_equal(found.right[:, own], matched & ~ignored)
        np.testing.assert_array_equal(found.ignored[:, own], ignored)
        where = np.concatenate([[], *([image["image_id"]] * len(image["dtScores"]) for image in images)])[order]
        np.testing.assert_array_equal(found.images[found.image[own]], [f"{number:.0f}" for number in where])


def compare(task: str, dataset: dict, results: list[dict], max_dets: tuple[int, ...] = (1, 10, 100)) -> None:
    theirs = pycocotools(dataset, results, task, max_dets)
    before = json.dumps(results)
    truth = faster_coco_eval.COCO(json.loads(json.dumps(dataset)))
    ours = evaluate_task(truth, results, task, kpt_oks_sigmas=SIGMAS, max_dets=max_dets)
    assert json.dumps(results) == before
    np.testing.assert_allclose(ours.eval["precision"], theirs.eval["precision"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.eval["recall"], theirs.eval["recall"], rtol=0, atol=1e-12)
    if len(theirs.stats):
        np.testing.assert_allclose(ours.stats[: len(theirs.stats)], theirs.stats, rtol=0, atol=1e-12)
    precision = theirs.eval["precision"][:, :, :, 0, -1]  # thresholds x recalls x classes, of all areas
    expected = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1)).T
    np.testing.assert_allclose(coco_matches(ours).average_precisions()[:, :, 0], expected, rtol=0, atol=1e-12)
    check_matches(coco_matches(ours), theirs)


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
@settings(deadline=None, max_examples=60)
@given(data=evaluations(), max_dets=st.sampled_from([(1, 10, 100), (1, 2, 3)]))
def test_evaluate_task__equals_pycocotools(task, data, max_dets):
    if data[1]:  # without predictions pycocotools fails
        compare(task, *data, max_dets)


def person(**keys: object) -> dict:
    return {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [8, 8, 40, 40],
        "area": 1500,
        "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]],
        "keypoints": [10, 10, 2, 20, 20, 1, 0, 0, 0],
        "num_keypoints": 2,
        "iscrowd": 0,
    } | keys


def annotations_of(*annotations: dict, categories: tuple[int, ...] = CATEGORIES, images: int = 2) -> dict:
    return {
        "images": [{"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "annotations": list(annotations),
        "categories": [{"id": number, "name": f"category {number}"} for number in categories],
    }


SQUARE, BESIDE, BETWEEN = [0, 0, 32, 32], [16, 0, 32, 32], [8, 0, 32, 32]


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([(SQUARE, 0), (BESIDE, 0)], [BETWEEN, SQUARE]),  # overlaps both alike, and leaves the first to the next
        ([(SQUARE, 1), ([0, 0, 32, 24], 0)], [SQUARE]),  # equals the crowd, but belongs to the object
        ([(SQUARE, 1), ([0, 0, 32, 14], 0)], [SQUARE]),  # and here to the crowd
        ([(SQUARE, 0)], [[0, 0, 16, 32]]),  # at the lowest threshold
    ],
)
def test_evaluate_task__equals_pycocotools_in_what_is_matched(objects, found):
    annotations = [person(id=n, bbox=box, iscrowd=crowd) for n, (box, crowd) in enumerate(objects, 1)]
    rows = [{"image_id": 1, "category_id": 2, "bbox": box, "score": 0.9 - n / 10} for n, box in enumerate(found)]
    compare("bbox", annotations_of(*annotations), rows)


def write(folder: Path, dataset: object) -> str:
    """Write annotations; return the name of the data set registered for them."""
    name = new_name()
    file = folder / f"{name}.json"
    file.write_text(json.dumps(dataset))
    ids = [category["id"] for category in dataset["categories"]] if isinstance(dataset, dict) else []
    MetadataCatalog.get(name).set(
        json_file=str(file),
        thing_classes=[f"category {number}" for number in ids],
        thing_dataset_id_to_contiguous_id={number: index for index, number in enumerate(ids)},
        evaluator_type="coco",
    )
    return name


def instances(found: list[tuple[int, float, list[float], list[float]]]) -> Instances:
    """Make the detections of one image from (class, score, x y width height, keypoints) each."""
    boxes = torch.tensor([[x, y, x + w, y + h] for _, _, (x, y, w, h), _ in found]).reshape(-1, 4)
    masks = torch.zeros(len(found), SIZE, SIZE, dtype=torch.bool)
    for pixels, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        pixels[y0:y1, x0:x1] = True
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([score for _, score, _, _ in found]),
        pred_classes=torch.tensor([kind for kind, _, _, _ in found], dtype=torch.long),
        pred_masks=masks,
        pred_keypoints=torch.tensor([points for _, _, _, points in found]).reshape(-1, len(SIGMAS), 3),
    )


FOUND = [
    [(0, 0.9, [10.0, 9.0, 40.0, 38.0], [11.0, 12.0, 0.9, 20.0, 21.0, 0.9, 1.0, 1.0, 0.1])],
    [(1, 0.8, [0.0, 0.0, 32.0, 32.0], [9.0] * 9), (0, 0.8, [60.0, 60.0, 50.0, 30.0], [5.0] * 9)],
]
TRUTH = (person(), person(id=2, image_id=2, category_id=3, bbox=[0, 0, 30, 33]), person(id=3, image_id=2, iscrowd=1))
TASKS = ("bbox", "segm", "keypoints")


def run(evaluator: COCOEvaluator, found: list[list[tuple]] = FOUND) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for image, of_image in enumerate(found, 1):
        evaluator.process([{"image_id": image}], [{"instances": instances(of_image)}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def test_evaluator__equals_detectron2_with_pycocotools(tmp_path):
    name = write(tmp_path, annotations_of(*TRUTH))
    for tasks in (TASKS, None):
        theirs = run(COCOEvaluator(name, tasks, use_fast_impl=False, kpt_oks_sigmas=SIGMAS))
        ours = run(FasterCOCOEvaluator(name, tasks, kpt_oks_sigmas=SIGMAS))
        assert list(ours) == list(theirs) == sorted(TASKS)
        assert 0 < theirs["bbox"]["AP"] < 100
        assert math.isnan(theirs["segm"]["AP-category 7"])
        for task, metrics in theirs.items():
            assert ours[task] == pytest.approx(metrics, nan_ok=True, abs=1e-9), task


def test_evaluator__more_detections_than_100(tmp_path):
    name = write(tmp_path, annotations_of(person(), images=1))
    strays = [(0, 0.9, [80.0, 80.0, 9.0, 9.0], [0.0] * 9)] * 120
    found = [[*strays, (0, 0.5, [8.0, 8.0, 40.0, 40.0], [0.0] * 9)]]
    theirs = run(COCOEvaluator(name, ("bbox",), use_fast_impl=False, max_dets_per_image=200), found)
    ours = run(FasterCOCOEvaluator(name, ("bbox",), max_dets_per_image=200), found)
    assert ours["bbox"] == pytest.approx(theirs["bbox"], nan_ok=True)
    assert ours["bbox"]["AP"] > 0
    assert run(FasterCOCOEvaluator(name, ("bbox",)), found)["bbox"]["AP"] == 0


@pytest.mark.parametrize("tasks", [TASKS, ("bbox",)])
def test_evaluator__no_prediction(tmp_path, tasks):
    name = write(tmp_path, annotations_of(*TRUTH))
    found = run(FasterCOCOEvaluator(name, tasks, kpt_oks_sigmas=SIGMAS), [[], []])
    assert [found[task]["AP"] for task in tasks] == [0.0] * len(tasks)
    assert found["bbox"]["AP-category 3"] == 0
    assert math.isnan(found["bbox"]["AP-category 7"])


def test_evaluator__annotation_with_the_id_0_can_be_found(tmp_path):
    found = [FOUND[0], []]
    names = [write(tmp_path, annotations_of(person(id=number), images=2)) for number in (0, 1)]
    zero, one = (run(FasterCOCOEvaluator(name, ("bbox",)), found)["bbox"] for name in names)
    assert zero["AP"] == one["AP"]
    assert zero["AP50"] == 100


def test_evaluator__leaves_the_annotations_alone(tmp_path):
    name = write(tmp_path, annotations_of(*TRUTH))
    evaluator = FasterCOCOEvaluator(name, TASKS, kpt_oks_sigmas=SIGMAS)
    before = json.dumps(evaluator._coco_api.dataset)
    first = run(evaluator)
    assert json.dumps(evaluator._coco_api.dataset) == before
    again = run(evaluator)
    assert all(again[task] == pytest.approx(first[task], nan_ok=True) for task in TASKS)


def test_evaluator__what_it_leaves_gives_its_results(tmp_path):
    name = write(tmp_path, annotations_of(*TRUTH))
    results = run(FasterCOCOEvaluator(name, TASKS, str(tmp_path / "out"), kpt_oks_sigmas=SIGMAS))
    for path in ("out", "out/coco_instances_results.json", "out/instances_predictions.pth"):
        saved, count = FasterCOCOEvaluator(name, kpt_oks_sigmas=SIGMAS).evaluate_saved(tmp_path / path)
        assert count == 3
        assert all(saved[task] == pytest.approx(results[task], nan_ok=True) for task in TASKS), path


def test_evaluator__ids_as_text_and_classes_in_another_order(tmp_path):
    texts = {2: "2", 3: "b", 7: "a"}  # of categories, those of images: frame 1, frame 2
    dataset = annotations_of(*copy.deepcopy(TRUTH))
    plain = run(FasterCOCOEvaluator(write(tmp_path, dataset), TASKS, kpt_oks_sigmas=SIGMAS))
    for row in dataset["images"]:
        row["id"] = f"frame {row['id']}"
    for row in dataset["categories"]:
        row["id"] = texts[row["id"]]
    for row in dataset["annotations"]:
        row.update(
            image_id=f"frame {row['image_id']}", category_id=texts[row["category_id"]], iscrowd=row["iscrowd"] or None
        )
    (tmp_path / "text.json").write_text(json.dumps(dataset))
    name = new_name()
    chosen = [f"category {number}" for number in reversed(CATEGORIES)]
    metadata = MetadataCatalog.get(name).set(json_file=str(tmp_path / "text.json"), chosen_classes=tuple(chosen))
    evaluator = FasterCOCOEvaluator(name, TASKS, str(tmp_path / "out"), kpt_oks_sigmas=SIGMAS)
    found = [[(2 - kind, *rest) for kind, *rest in of_image] for of_image in FOUND]
    for image, of_image in enumerate(found, 1):
        evaluator.process([{"image_id": f"frame {image}"}], [{"instances": instances(of_image)}])
    results = evaluator.evaluate()
    assert all(results[task] == pytest.approx(plain[task], nan_ok=True) for task in TASKS)
    assert evaluator.matches()["bbox"].images.tolist() == ["frame 1", "frame 2"]
    saved = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in saved] == [
        ("frame 1", "2"),
        ("frame 2", "b"),
        ("frame 2", "2"),
    ]
    for path in ("out/coco_instances_results.json", "out/instances_predictions.pth"):
        again, _ = FasterCOCOEvaluator(name, kpt_oks_sigmas=SIGMAS).evaluate_saved(tmp_path / path)
        assert all(again[task] == pytest.approx(plain[task], nan_ok=True) for task in TASKS)
    some = new_name()
    MetadataCatalog.get(some).set(json_file=metadata.json_file, chosen_classes=("category 3",))
    only, count = FasterCOCOEvaluator(some, ["bbox"]).evaluate_saved(tmp_path / "out/coco_instances_results.json")
    assert count == 1  # predictions of other classes are passed over
    assert only["bbox"]["AP"] == pytest.approx(plain["bbox"]["AP-category 3"])


def test_evaluator__only_the_images_of_a_split_count(tmp_path):
    dataset = annotations_of(*copy.deepcopy(TRUTH))
    choices = (HoldOut(0.5, seed) for seed in range(99))
    names = [row["file_name"] for row in dataset["images"]]
    apart = next(one for one in choices if one.takes(names[0], "train") and one.takes(names[1], "test"))
    name = write(tmp_path, dataset)
    MetadataCatalog.get(name).set(split="test", hold_out=apart)
    alone = {
        "images": dataset["images"][1:],
        "annotations": [row for row in dataset["annotations"] if row["image_id"] == dataset["images"][1]["id"]],
        "categories": dataset["categories"],
    }
    assert 0 < len(alone["annotations"]) < len(dataset["annotations"])
    (tmp_path / "alone").mkdir()
    results = []
    for one in (name, write(tmp_path / "alone", alone)):
        evaluator = FasterCOCOEvaluator(one, TASKS, kpt_oks_sigmas=SIGMAS)
        evaluator.process([{"image_id": dataset["images"][1]["id"]}], [{"instances": instances(FOUND[1])}])
        results.append(evaluator.evaluate())
    assert all(results[0][task] == pytest.approx(results[1][task], nan_ok=True) for task in TASKS)


def check(file: Path, *tasks: str, sigmas: tuple[float, ...] = SIGMAS) -> None:
    """Check a file before a run with a model of these tasks and boxes."""
    name = new_name()
    MetadataCatalog.get(name).set(json_file=str(file))
    keys = {"MODEL__MASK_ON": "segm" in tasks, "MODEL__KEYPOINT_ON": "keypoints" in tasks}
    check_coco_ground_truth(empty_config(TEST__KEYPOINT_OKS_SIGMAS=sigmas, **keys), name)


@pytest.mark.parametrize(
    ("dataset", "task", "message"),
    [
        (annotations_of(), "bbox", "no ground truth for bbox: none of its 0 annotations is a single"),
        (annotations_of(person(iscrowd=1)), "bbox", "none of its 1 annotations is a single object"),
        (annotations_of(person(num_keypoints=0)), "keypoints", "a single object with keypoints"),
        (
            annotations_of(person(segmentation=[])),
            "segm",
            r"1 of 1 annotations, such as annotation 1 \(image 1\), have no segmentation, which",
        ),
        (
            annotations_of(person()) | {"images": [{"id": 1, "file_name": "1.jpg"}]},
            "segm",
            "1 images, such as 1, lack width and height, which masks require",
        ),
        ({"images": [], "categories": []}, "bbox", "lacks the list annotations: it has the keys images, categories"),
        ([], "bbox", "lacks the lists images, annotations, categories: it is an empty list"),
        (
            annotations_of(person(keypoints=[1, 1, 2] * 4)),
            "keypoints",
            "3 keypoints .TEST.KEYPOINT_OKS_SIGMAS., but the annotation 1 of image 1 has 4",
        ),
    ],
)
def test_check_coco_ground_truth__faults(tmp_path, dataset, task, message):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(dataset))
    with pytest.raises(ValueError, match=message):
        check(file, task)


def test_check_coco_ground_truth__sound_and_not_json(tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(annotations_of(*TRUTH)))
    check(file, *TASKS)
    with pytest.raises(ValueError, match="the metrics define the spreads of 17 keypoints"):
        check(file, *TASKS, sigmas=())
    file.write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json: is not JSON"):
        check(file, *TASKS)
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "none.json")


def test_check_coco_ground_truth__data_set_without_a_file():
    check_coco_ground_truth(empty_config(), new_name())  # detectron2 makes one of its records


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 200), st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_mask_fault__finds_none_in_what_pycocotools_writes(first, others):
    lengths = [first, *others]
    size = [1, sum(lengths)]
    mask = mask_util.frPyObjects({"size": size, "counts": lengths}, *size)
    assert mask_fault(mask, size) is None
    assert mask_fault({**mask, "counts": mask["counts"].decode()}, size) is None
    assert "do not add up" in mask_fault({**mask, "size": [1, size[1] + 1]}, [1, size[1] + 1])
    assert "do not add up" in mask_fault({**mask, "size": [1, size[1] - 1]}, [1, size[1] - 1])


@pytest.mark.parametrize("size", [[0, 0], [1, 1], [-1, 1], [1, 2**70]])
@pytest.mark.parametrize("counts", ["", "P", "!", "1P", "PPPPPPPPPPPP0", "é", "0O", "3N", b"\xff"])
def test_mask_fault__runs_that_break_off_or_are_negative(counts, size):
    assert "do not add up" in mask_fault({"size": size, "counts": counts}, size)

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.detection.visualize.draw import GAP, TITLE_HEIGHT
from tests.commands import visualize
from tests.detection.tiny import DETECTOR, SEGMENTS, SIZE, make_coco, make_semseg, make_voc

CONFIG = "pascal_voc_R_50_DC5_24k_random.yaml"
SCALED = 7 * SIZE  # 400 pixels or more


def opts(*entries: dict) -> list[str]:
    return [
        *("MOCO.DATASETS", str(list(entries)), "DATASETS.TEST", str(tuple(entry["NAME"] for entry in entries))),
        *("MODEL.ROI_HEADS.NUM_CLASSES", str(DETECTOR["MODEL.ROI_HEADS.NUM_CLASSES"])),
    ]


def result(image: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": 3, "bbox": box, "score": score}


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> dict:
    return make_coco(tmp_path_factory.mktemp("data"), 3)


@pytest.fixture
def runs(tmp_path, coco) -> list[str]:
    """Flags for two runs: one found something in the lower right of image 0, the other with a lower score."""
    flags = []
    for name, score in (("sure", 0.9), ("shy", 0.3)):
        path = tmp_path / name / "inference" / coco["NAME"] / "coco_instances_results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps([result(0, [44, 46, 16, 14], score)]))
        flags += ["--predictions", f"{name}={tmp_path / name}"]
    return flags


def draw(output: Path, coco: dict, *flags: str) -> dict[str, np.ndarray]:
    visualize(["--config-file", CONFIG, "--output", str(output), *flags, *opts(coco)])
    return {path.stem: np.array(Image.open(path)) for path in sorted(output.iterdir())}


def columns(page: np.ndarray) -> list[np.ndarray]:
    assert (page.shape[1] + GAP) % (SCALED + GAP) == 0
    return [page[TITLE_HEIGHT:, x : x + SCALED] for x in range(0, page.shape[1], SCALED + GAP)]


def test_main__ground_truth_and_runs_side_by_side(tmp_path, coco, runs, capsys):
    pages = draw(tmp_path / "out", coco, *runs)
    assert set(pages) == {"0", "1", "2"}
    assert "Wrote 3 images to" in capsys.readouterr().out
    assert all(page.shape == (TITLE_HEIGHT + SCALED, 3 * SCALED + 2 * GAP, 3) for page in pages.values())
    truth, sure, shy = columns(pages["0"])
    corner = np.s_[7 * 48 : 7 * 58, 7 * 46 :]
    assert not np.array_equal(sure[corner], truth[corner])  # a box that is not in the ground truth
    assert np.array_equal(shy[corner], truth[corner])  # below the threshold
    assert not np.array_equal(shy, truth)  # but the object is not in it
    _, sure, shy = columns(pages["1"])
    assert np.array_equal(sure, shy)


def test_main__a_run_may_have_any_name(tmp_path):
    entry = make_coco(tmp_path / "data", 1)
    content = json.loads(Path(entry["JSON"]).read_text())
    Path(entry["JSON"]).write_text(json.dumps(content | {"annotations": []}))
    (tmp_path / "found.json").write_text("[]")
    # Its title is the other column's, "ground truth: 0".
    (page,) = draw(tmp_path / "out", entry, "--predictions", f"ground truth={tmp_path}/found.json").values()
    assert len(columns(page)) == 2


@pytest.mark.parametrize(("threshold", "shown"), [("0", 2), ("0.125", 2), ("0.3", 1), ("0.9", 0)])
def test_visualize__draws_and_counts_what_reaches_the_threshold(tmp_path, coco, monkeypatch, threshold, shown):
    drawn = {}

    def note(image, columns, names, metadata):
        drawn.update({title: len(things) for title, things in columns})
        return image

    monkeypatch.setattr("mocodet.detection.visualize.run.draw_columns", note)
    found = tmp_path / "found.json"
    found.write_text(json.dumps([result(0, [1, 2, 3, 4], score) for score in (0.125, 0.3)]))
    flags = ("--predictions", f"a={found}", "--threshold", threshold)
    draw(tmp_path / "out", coco, *flags, "--image-id", "0")
    draw(tmp_path / "out", coco, *flags, "--image-id", "1")  # nothing was found in it
    assert drawn == {
        "ground truth: 1": 1,
        f"a: {shown} of 2, score ≥ {threshold}": shown,
        f"a: 0 of 0, score ≥ {threshold}": 0,
    }


def test_main__threshold_ids_and_choice(tmp_path, coco, runs):
    pages = draw(tmp_path / "a", coco, *runs, "--threshold", "0.2", "--image-id", "0")
    assert set(pages) == {"0"}
    truth, _, shy = columns(pages["0"])
    assert not np.array_equal(shy[7 * 48 : 7 * 58, 7 * 46 :], truth[7 * 48 : 7 * 58, 7 * 46 :])
    chosen = {seed: set(draw(tmp_path / f"b{seed}", coco, *runs, "--images", "1", "--seed", seed)) for seed in "01234"}
    assert all(len(keys) == 1 for keys in chosen.values())
    assert len(set.union(*chosen.values())) > 1
    assert set(draw(tmp_path / "c", coco, *runs, "--images", "1", "--seed", "3")) == chosen["3"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-id", "9"], r"^error: data set tiny_\d+ does not contain 9; it contains images such as 0, 1, 2$"),
        (["--dataset", "nowhere"], "DATASETS contains nowhere, which neither detectron2 nor MOCO.DATASETS defines"),
        (["--predictions", "third=gone"], "the predictions file gone does not exist"),
    ],
)
def test_main__refusals_are_one_line(tmp_path, coco, runs, flags, message):
    with pytest.raises(SystemExit, match=message):
        draw(tmp_path / "out", coco, *runs, *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--predictions", "sure=elsewhere"], "the names given with --predictions must be unique, got sure, shy, sure"),
        (["--images", "0"], "argument --images: invalid positive int value: '0'"),
        (["--predictions", "elsewhere"], "expected NAME=PATH, got 'elsewhere'"),
    ],
)
def test_main__flags_that_are_refused(tmp_path, coco, runs, flags, message, capsys):
    with pytest.raises(SystemExit):
        draw(tmp_path / "out", coco, *runs, *flags)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_main__voc(tmp_path):
    entry = make_voc(tmp_path / "data", 2, "test")
    folder = tmp_path / "found"
    folder.mkdir()
    for name in entry["CLASSES"]:
        (folder / f"{name}.txt").write_text("test000 0.900 40.0 46.0 60.0 60.0\n" if name == "cat" else "")
    pages = draw(tmp_path / "out", entry, "--predictions", f"a={folder}", "--image-id", "test000")
    truth, found = columns(pages["test000"])
    assert not np.array_equal(truth, found)


def test_main__semantic_segmentation(tmp_path):
    entry = make_semseg(tmp_path / "data", 1)
    (tmp_path / "sem_seg_predictions.json").write_text("[]")
    visualize(
        [
            *("--config-file", "pascal_voc_R_50_FCN_30k_random.yaml", "--output", str(tmp_path / "out")),
            *("--predictions", f"nothing={tmp_path}", "--dataset", entry["NAME"]),
            *("MOCO.DATASETS", str([entry]), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(len(SEGMENTS))),
        ]
    )
    page = np.array(Image.open(tmp_path / "out" / "train000.png"))
    height, width = np.array(Image.open(next(Path(entry["IMAGES"]).iterdir()))).shape[:2]
    scale = -(-400 // max(height, width))
    assert page.shape == (TITLE_HEIGHT + scale * height, 2 * scale * width + GAP, 3)
    truth, nothing = page[TITLE_HEIGHT:, : scale * width], page[TITLE_HEIGHT:, scale * width + GAP :]
    assert (truth != nothing).any(axis=2).mean() > 0.9

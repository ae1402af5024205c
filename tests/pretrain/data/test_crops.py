"""Crops of labelled boxes, for the kNN monitor: against slices of the pixels, in three formats."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.config.merge import merge_config
from mocodet.common.formats.boxes import read_boxes
from mocodet.common.formats.hold_out import HoldOut
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.data.crops import QUERIES, read_crops
from mocodet.pretrain.evaluation.monitor import KNNMonitor
from tests.pretrain.damaged import png
from tests.pretrain.evaluation.test_monitor import Method, measure

WIDTH = HEIGHT = 60
# Class; left, top, right and bottom edge.
BOXES = [("cat", (0, 10, 30, 60)), ("dog", (21, 5, 60, 40)), ("cat", (40, 40, 55, 60))]  # the last is tiny
NAMES = [f"{number:02}" for number in range(12)]


def write_voc(root: Path) -> dict[str, object]:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
        for name, (x, y, right, bottom) in BOXES
    )
    for name in NAMES:
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(NAMES))
    return {"KIND": "voc", "ROOT": str(root), "SPLIT": "train"}


def write_coco(root: Path) -> dict[str, object]:
    (root / "JPEGImages").mkdir(parents=True)
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    ids = {category["name"]: category["id"] for category in categories}
    annotations = [
        {"id": 10 * image + number, "image_id": image, "category_id": ids[name], "bbox": [x, y, right - x, bottom - y]}
        for image in range(len(NAMES))
        for number, (name, (x, y, right, bottom)) in enumerate(BOXES)
    ]
    annotations.append({"id": 999, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 60], "iscrowd": 1})
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(NAMES)]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return {"KIND": "coco", "JSON": f"{root}/a.json", "IMAGES": f"{root}/JPEGImages"}


def write_yolo(root: Path) -> dict[str, object]:
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "JPEGImages").symlink_to("images")
    lines = [
        f"{('cat', 'dog').index(name)} {(x + right) / 120} {(y + bottom) / 120} {(right - x) / 60} {(bottom - y) / 60}"
        for name, (x, y, right, bottom) in BOXES
    ]
    for name in NAMES:
        (root / "labels" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    return {"KIND": "yolo", "ROOT": f"{root}/data.yaml", "SPLIT": "train"}


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


def write(root: Path, kind: str) -> dict[str, object]:
    entry = WRITERS[kind](root)
    for number, name in enumerate(NAMES):
        (root / "JPEGImages" / f"{name}.png").write_bytes(png(number, side=WIDTH))
    return entry


@pytest.mark.parametrize("kind", WRITERS)
def test_read_crops__are_the_boxes_of_a_part_of_the_images(tmp_path, kind, caplog):
    with caplog.at_level("INFO", "mocodet.pretrain"):
        bank, queries = read_crops(write(tmp_path, kind), "KNN.DATASET")
    sides = [{Path(path).stem for path in side.images.paths} for side in (bank, queries)]
    assert sorted(sides[0] | sides[1]) == NAMES
    assert not sides[0] & sides[1]
    assert 0 < len(sides[1]) < len(sides[0])
    for side in (bank, queries):
        assert side.classes == ["cat", "dog"]
        for place, path in enumerate(side.images.paths):
            name, (left, top, right, bottom) = BOXES[place % 2]
            expected = np.asarray(Image.open(path))[top:bottom, left:right]
            assert np.array_equal(side.images[place], expected)
            assert np.array_equal(side.images.pixels(place), expected)
            assert side.classes[side.labels[place]] == name
    told = f"{len(queries.labels)} boxes with {len(bank.labels)} boxes of other images, in 2 classes; skipping 12"
    assert told in caplog.text


def test_read_crops__what_cannot_be_compared_is_refused(tmp_path):
    entry = write(tmp_path, "voc")
    with pytest.raises(ValueError, match=r"^KNN\.DATASET only contains boxes of dog; expected at least two classes"):
        read_crops({**entry, "CLASSES": ["dog"]}, "KNN.DATASET")
    with pytest.raises(
        ValueError, match=r"^KNN\.DATASET of KIND voc has ROOT; expected ROOT, SPLIT, CLASSES \(optional\)"
    ):
        read_crops({"KIND": "voc", "ROOT": "x"}, "KNN.DATASET")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("03\n")
    with pytest.raises(ValueError, match=r"has 1 images, too few to compare"):
        read_crops(entry, "KNN.DATASET")
    entry = write(tmp_path / "coco", "coco")
    (tmp_path / "coco" / "JPEGImages" / "05.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^KNN\.DATASET contains boxes for \S*05\.png, which does not exist"):
        read_crops(entry, "KNN.DATASET")


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_read_boxes__of_one_of_two_parts(tmp_path, kind):
    entry = write(tmp_path, kind)
    parts = [read_boxes({**entry, "SPLIT": split, "HOLD_OUT": 0.4}, "--leaks") for split in ("train", "test")]
    assert all(parts)
    both = sorted((image for part in parts for image in part), key=lambda image: image.path)
    assert both == sorted(read_boxes(entry, "--leaks"), key=lambda image: image.path)
    with pytest.raises(ValueError, match="with HOLD_OUT, SPLIT must be train, or test for the held-out images; got 'v"):
        read_boxes({**entry, "SPLIT": "val", "HOLD_OUT": 0.4}, "--leaks")


def test_queries__do_not_depend_on_a_hold_out():
    names = [f"{number}.jpg" for number in range(2000)]
    for apart, split in ((HoldOut(0.25), "train"), (HoldOut(0.25), "test"), (HoldOut(0.1, 3), "train")):
        left = [name for name in names if apart.takes(name, split)]
        assert sum(QUERIES.takes(name, "test") for name in left) / len(left) == pytest.approx(0.25, abs=0.06)


def test_monitor__measures_boxes_of_an_entry_on_the_command_line(tmp_path):
    entry = write(tmp_path, "coco")
    cfg = get_cfg()
    overrides = ["KNN.DATASET", str(entry), "KNN.K", "5", "DATA.ROOT", "x", "DATA.NUM_WORKERS", "0", "KNN.SIZE", "32"]
    merge_config(cfg, "pretrain/own_images_R_50.yaml", [*overrides, "OUTPUT_DIR", str(tmp_path)])
    check_config(cfg)
    monitor = KNNMonitor(cfg, 1)
    found = measure(monitor, Method())
    assert 0 <= found["top1"] <= found["top5"] == 100
    query = monitor.neighbours[0]
    assert tuple(query["box"]) in [edges for _, edges in BOXES[:2]]
    assert {Path(one["path"]).name for one in query["neighbours"]}.isdisjoint({Path(query["path"]).name})
    cfg.KNN.TRAIN_ROOT = cfg.KNN.VAL_ROOT = "x"
    with pytest.raises(ValueError, match=r"^KNN\.DATASET is .*expected \[\] because KNN\.TRAIN_ROOT is 'x'"):
        check_config(cfg)

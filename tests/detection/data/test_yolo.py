import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mocodet.detection.data import register_datasets
from mocodet.detection.data.mapper import build_mapper
from mocodet.detection.evaluation.kinds import kind_of
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator
from mocodet.detection.training.preflight import check_datasets
from tests.detection.tiny import CLASSES, empty_config, make_coco, new_name


def as_yolo(entry: dict, root: Path, *, polygons: bool) -> dict:
    """Write a COCO data set in YOLO's format, by its definition."""
    content = json.loads(Path(entry["JSON"]).read_text())
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to(entry["IMAGES"])
    for image in content["images"]:
        lines = []
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                numbers = [x + w / 2, y + h / 2, w, h] if not polygons else one["segmentation"][0]
                parts = [n / image["height" if place % 2 else "width"] for place, n in enumerate(numbers)]
                lines.append(f"{(one['category_id'] - 3) // 2} {' '.join(map(str, parts))}\n")
        (root / "labels" / image["file_name"]).with_suffix(".txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"train: images\nnames: {list(CLASSES)}\n")
    return {"NAME": new_name(), "KIND": "yolo", "ROOT": str(root / "data.yaml")}


def compared(records: list[dict], keys: tuple[str, ...]) -> list[list]:
    return [
        [record["height"], record["width"], Path(record["file_name"]).name, one["category_id"], one["bbox_mode"]]
        + [np.round(np.ravel(one.get(key, [])), 9).tolist() for key in keys]
        for record in records
        for one in record["annotations"]
    ]


@pytest.mark.parametrize("polygons", [False, True])
def test_load_yolo__equals_the_same_data_set_as_coco(polygons, tmp_path):
    coco = make_coco(tmp_path / "coco")
    yolo = as_yolo(coco, tmp_path / "yolo", polygons=polygons)
    cfg = empty_config(MOCO__DATASETS=[coco, yolo], DATASETS__TRAIN=(yolo["NAME"],), DATASETS__TEST=(yolo["NAME"],))
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = polygons, len(CLASSES)
    register_datasets(cfg)
    check_datasets(cfg, training=True)
    kind_of(yolo["NAME"]).check(cfg, yolo["NAME"])
    theirs, ours = (DatasetCatalog.get(entry["NAME"]) for entry in (coco, yolo))
    keys = ("bbox", "segmentation") if polygons else ("bbox",)
    assert compared(ours, keys) == compared(theirs, keys)
    assert MetadataCatalog.get(yolo["NAME"]).thing_classes == list(CLASSES)
    mapper = build_mapper(cfg, training=True)
    assert len(mapper(ours[0])["instances"]) == 1

    results = []
    for entry, records in ((coco, theirs), (yolo, ours)):
        ids = list(MetadataCatalog.get(entry["NAME"]).thing_dataset_id_to_contiguous_id)
        rows = [
            {"image_id": record["image_id"], "category_id": ids[found["category_id"]], "score": 0.5 + place / 10}
            | {"bbox": [value + place for value in found["bbox"]]}
            for place, record in enumerate(records)
            for found in record["annotations"]
        ]
        file = tmp_path / f"{entry['NAME']}.json"
        file.write_text(json.dumps(rows))
        results.append(FasterCOCOEvaluator(entry["NAME"], ["bbox"]).evaluate_saved(file)[0]["bbox"])
    np.testing.assert_equal(results[0], results[1])  # without large objects both are nan
    assert 0 < results[0]["AP"] < 100


def test_load_yolo__classes_and_faults(tmp_path):
    entry = as_yolo(make_coco(tmp_path / "coco"), tmp_path / "yolo", polygons=False)
    chosen = entry | {"NAME": new_name(), "CLASSES": ["dog"], "SPLIT": "train"}
    register_datasets(empty_config(MOCO__DATASETS=[entry, chosen]))
    assert [len(record["annotations"]) for record in DatasetCatalog.get(chosen["NAME"])] == [0, 1, 0, 1]
    label = tmp_path / "yolo/labels/0.txt"
    label.write_text("0 0.5 0.5 0.5\n")
    with pytest.raises(
        ValueError, match=rf"data set {entry['NAME']}: .*labels/0\.txt: line 1 has 4 values; write class"
    ):
        DatasetCatalog.get(entry["NAME"])

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances

from mocodet.common.formats.hold_out import PARTS
from mocodet.detection.data import register_datasets
from tests.detection.tiny import CLASSES, boxes, empty_config, make_coco, make_voc


def register(*entries: object) -> None:
    register_datasets(empty_config(MOCO__DATASETS=list(entries)))


def test_register_datasets__voc_as_detectron2_reads_it(tmp_path):
    entry = make_voc(tmp_path)
    register(entry)
    assert DatasetCatalog.get(entry["NAME"]) == load_voc_instances(str(tmp_path), "train", CLASSES)
    metadata = MetadataCatalog.get(entry["NAME"])
    assert (metadata.evaluator_type, metadata.year, metadata.split) == ("pascal_voc", 2007, "train")
    assert metadata.thing_classes == list(CLASSES)


def test_register_datasets__coco(tmp_path):
    entry = make_coco(tmp_path)
    register(entry)
    records = DatasetCatalog.get(entry["NAME"])
    assert [record["annotations"][0]["bbox"] for record in records] == [
        [x0, y0, x1 - x0, y1 - y0] for _, x0, y0, x1, y1 in boxes(4)
    ]
    assert [record["annotations"][0]["category_id"] for record in records] == [0, 1, 0, 1]
    metadata = MetadataCatalog.get(entry["NAME"])
    assert (metadata.evaluator_type, metadata.thing_classes) == ("coco", list(CLASSES))


def test_register_datasets__from_the_command_line(tmp_path):
    entry = make_voc(tmp_path) | {"YEAR": 2012}
    cfg = empty_config()
    cfg.merge_from_list(["MOCO.DATASETS", str([entry])])
    register_datasets(cfg)
    assert MetadataCatalog.get(entry["NAME"]).year == 2012
    reread = type(cfg).load_cfg(cfg.dump())
    assert [entry] == reread.MOCO.DATASETS


def test_register_datasets__again_and_differently(tmp_path):
    entry = make_voc(tmp_path)
    register(entry)
    register(entry, dict(reversed(entry.items())))
    with pytest.raises(ValueError, match=f"name '{entry['NAME']}' already refers to VocDataset"):
        register(entry | {"SPLIT": "test"})


def test_register_datasets__name_that_detectron2_uses(tmp_path):
    with pytest.raises(ValueError, match="'coco_2017_val' already refers to a data set that detectron2"):
        register(make_voc(tmp_path) | {"NAME": "coco_2017_val"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"KIND": "yoyo"}, "KIND must be one of voc, coco, yolo, semseg, got 'yoyo'"),
        ({"KIND": ["coco"]}, r"KIND must be one of voc, coco, yolo, semseg, got \['coco'\]"),
        ({"CLASSES": None}, "CLASSES must be a list of names"),
        ({"CLASSES": "cat"}, "CLASSES must be a list of names"),
        ({"CLASSES": []}, "CLASSES is empty"),
        ({"CLASSES": ["cat", "cat"]}, "lists cat more than once"),
        ({"YEAR": 2010}, "2007 or 2012, got 2010"),
        ({"YEAR": "2007"}, "YEAR must be of type int"),
        ({"ROOT": 3}, "ROOT must be of type str"),
        ({"SPLT": "train"}, "unknown key SPLT .* are CLASSES, HOLD_OUT, HOLD_OUT_SEED, NAME, ROOT, SPLIT, YEAR"),
        ({"HOLD_OUT": 1}, r"HOLD_OUT, the fraction of images to hold out, must be between 0 and 1; got 1\.0"),
        (
            {"HOLD_OUT": 0.2, "SPLIT": "val"},
            "with HOLD_OUT, SPLIT must be train, or test for the held-out images; got 'val'",
        ),
        ({"HOLD_OUT_SEED": 1}, "HOLD_OUT_SEED has no effect without HOLD_OUT"),
        ({"ROOT": ...}, "also requires ROOT"),
    ],
)
def test_register_datasets__malformed(tmp_path, change, message):
    entry = {key: value for key, value in (make_voc(tmp_path) | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        register(entry)


def test_register_datasets__coco_in_two_parts(tmp_path):
    entry = make_coco(tmp_path, count=12)
    register(entry)
    parts = [{**entry, "NAME": f"{entry['NAME']}_{split}", "SPLIT": split, "HOLD_OUT": 0.4} for split in PARTS]
    register(*parts)
    train, test = (DatasetCatalog.get(part["NAME"]) for part in parts)
    assert train
    assert test
    assert sorted(train + test, key=lambda record: record["image_id"]) == DatasetCatalog.get(entry["NAME"])
    for change, message in (
        ({"HOLD_OUT": 0.4}, "with HOLD_OUT, SPLIT must be train, or test for the held-out images; got ''"),
        ({"HOLD_OUT_SEED": 1}, "HOLD_OUT_SEED has no effect without HOLD_OUT"),
    ):
        with pytest.raises(ValueError, match=message):
            register({**entry, "NAME": "never", **change})


def test_register_datasets__not_a_list_of_mappings():
    with pytest.raises(ValueError, match="every entry must be a mapping with NAME and KIND, got 'voc'"):
        register("voc")
    for value in ("{'NAME': 'x'}", "'voc'"):
        with pytest.raises(ValueError, match="Type mismatch"):  # yacs
            empty_config(MOCO__DATASETS=value)

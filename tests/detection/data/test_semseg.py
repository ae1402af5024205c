from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from PIL import Image

from mocodet.detection.data import register_datasets
from mocodet.detection.data.mapper import SemSegMapper
from mocodet.detection.data.registration import VOC_SETS, register_voc_sem_seg
from mocodet.detection.data.semseg import check_labels, load_semseg
from mocodet.detection.evaluation.kinds.semseg import MeanIoUEvaluator
from mocodet.detection.training.preflight import check_datasets
from tests.common.formats.test_labels import save_labels
from tests.detection.tiny import SEGMENTS, empty_config, make_semseg, new_name


def make_folders(root: Path, *names: str, suffix: str = ".jpg") -> tuple[str, str]:
    for name in names:
        path = root / "images" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
        save_labels(root / "labels" / f"{name}.png", np.zeros((3, 4)))
    return str(root / "images"), str(root / "labels")


def test_load_semseg__pairs_by_name(tmp_path):
    images, labels = make_folders(tmp_path, "b", "a")
    make_folders(tmp_path, "c", suffix=".PNG")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    assert load_semseg("mine", images, labels) == [
        {"file_name": f"{images}/{file}", "sem_seg_file_name": f"{labels}/{file[0]}.png", "image_id": file[0]}
        for file in ("a.jpg", "b.jpg", "c.PNG")
    ]


def test_load_semseg__split(tmp_path):
    images, labels = make_folders(tmp_path, "a", "b", "town/c")
    split = tmp_path / "list.txt"
    split.write_bytes(b"town/c.jpg labels/town/c.png\r\n\r\na\r\na\r\n")
    records = load_semseg("mine", images, labels, str(split))
    assert [record["image_id"] for record in records] == ["town/c", "a"]
    assert records[0]["sem_seg_file_name"] == f"{labels}/town/c.png"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", ValueError, "lists no images, so the data set is empty"),
        ("a.jpg b.png\n", ValueError, r"one image name per line; found 'a\.jpg b\.png'"),
        ("z\n", ValueError, r"images/z: is missing .* but .*list\.txt lists it; restore the image, or remove z from"),
        (None, FileNotFoundError, r"split file .*list\.txt does not exist; its folder contains other\.txt"),
    ],
)
def test_load_semseg__bad_split(tmp_path, content, error, message):
    images, labels = make_folders(tmp_path, "a")
    (tmp_path / "other.txt").write_text("a\n")
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(error, match=f"^data set mine: .*{message}"):
        load_semseg("mine", images, labels, str(tmp_path / "list.txt"))


def test_load_semseg__missing_parts(tmp_path):
    images, labels = make_folders(tmp_path, "a", "b", "c")
    with pytest.raises(FileNotFoundError, match="images folder nowhere does not exist"):
        load_semseg("mine", "nowhere", labels)
    with pytest.raises(FileNotFoundError, match="labels folder nowhere does not exist"):
        load_semseg("mine", images, "nowhere")
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"labels/b\.png: is missing, but .*images/b\.jpg needs it; create it"):
        load_semseg("mine", images, labels)


def test_load_semseg__ambiguous_or_empty_folder(tmp_path):
    images, labels = make_folders(tmp_path, "a")
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.png")
    with pytest.raises(
        ValueError, match=r"images: a\.jpg, a\.png share the label image a\.png, because they differ only"
    ):
        load_semseg("mine", images, labels)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="the data set is empty"):
        load_semseg("mine", str(tmp_path / "none"), labels)


def test_register_datasets__semseg(tmp_path):
    entry = make_semseg(tmp_path, 3)
    cfg = empty_config()
    cfg.merge_from_list(["MOCO.DATASETS", str([entry])])
    register_datasets(cfg)
    records = get_detection_dataset_dicts([entry["NAME"]])
    assert [record["image_id"] for record in records] == ["train000", "train001", "train002"]
    metadata = MetadataCatalog.get(entry["NAME"])
    assert (metadata.stuff_classes, metadata.ignore_label) == (list(SEGMENTS), 255)
    assert metadata.evaluator_type == "sem_seg"


def test_register_datasets__values_choose_and_order_classes(tmp_path, caplog):
    entry = make_semseg(tmp_path, 3)
    chosen = entry | {"NAME": new_name(), "CLASSES": ["blue", "background"], "VALUES": [3, 0]}
    register_datasets(empty_config(MOCO__DATASETS=[entry, chosen]))
    plain, records = (get_detection_dataset_dicts([one["NAME"]]) for one in (entry, chosen))
    check_labels(chosen["NAME"], records, learned=True)
    assert "has values that are not in VALUES: 1 (" in caplog.text
    mapper = SemSegMapper([], "RGB", 2)
    evaluator = MeanIoUEvaluator(chosen["NAME"])
    evaluator.reset()
    for record, known in zip(records, plain, strict=True):
        values = np.array(Image.open(known["sem_seg_file_name"]))
        expected = np.full(values.shape, 255)
        expected[values == 3], expected[values == 0] = 0, 1
        assert mapper(record)["sem_seg"].tolist() == expected.tolist()
        truth = torch.from_numpy(np.where(expected == 255, 0, expected))
        evaluator.process([record], [{"sem_seg": torch.nn.functional.one_hot(truth).permute(2, 0, 1)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CLASSES": ...}, "an entry of KIND semseg also requires CLASSES"),
        ({"LABELS": ...}, "an entry of KIND semseg also requires LABELS"),
        ({"CLASSES": ["a", "a"]}, "CLASSES lists a more than once"),
        ({"IGNORE": 256}, "IGNORE must be a value of 8-bit labels, 0 to 255; got 256"),
        ({"IGNORE": "255"}, "IGNORE must be of type int"),
        ({"CLASSES": ["a"]}, "CLASSES contains only a, .* add a background class"),
        (
            {"VALUES": [0, 1, 2]},
            r"VALUES must be omitted or contain 4 distinct .*, one for each of CLASSES; got \[0, 1, 2\]",
        ),
        ({"VALUES": [0, 1, 2, 2]}, "VALUES must be omitted or contain 4 distinct"),
        ({"VALUES": [0, 1, 2, 256]}, "VALUES must be omitted or contain 4 distinct"),
        ({"VALUES": [0, 1, 2, True]}, "VALUES must be a list of integers"),
        ({"MAX_IGNORED": 2}, r"MAX_IGNORED, the fraction of all pixels .*; got 2\.0"),
        ({"YEAR": 2012}, "unknown key YEAR"),
    ],
)
def test_register_datasets__malformed_semseg(tmp_path, change, message):
    entry = {key: value for key, value in (make_semseg(tmp_path, 1) | change).items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        register_datasets(empty_config(MOCO__DATASETS=[entry]))


def check(entry: dict, **keys: object) -> None:
    cfg = empty_config(
        **{
            "MOCO__DATASETS": [entry],
            "DATASETS__TRAIN": (entry["NAME"],),
            "DATASETS__TEST": (entry["NAME"],),
            "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL__SEM_SEG_HEAD__NUM_CLASSES": len(SEGMENTS),
            **keys,
        }
    )
    register_datasets(cfg)
    check_datasets(cfg, training=True)


def test_check_datasets__semseg(tmp_path):
    check(make_semseg(tmp_path / "good", 3))
    with pytest.raises(
        ValueError, match=r"labels: has no pixels of classes 'green' \(value 2\), 'blue' \(value 3\) in"
    ):
        check(make_semseg(tmp_path / "absent", 1))
    with pytest.raises(ValueError, match=r"has 4 classes, but MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 21; add .* 4$"):
        check(make_semseg(tmp_path / "classes", 1), MODEL__SEM_SEG_HEAD__NUM_CLASSES=21)
    with pytest.raises(ValueError, match=r"ignores the label 0, but .*IGNORE_VALUE is 255; add .*VALUE 0$"):
        check(make_semseg(tmp_path / "ignored", 1) | {"IGNORE": 0})


def test_voc_sets__are_registered_on_import():
    assert set(VOC_SETS) <= set(DatasetCatalog.list())
    for name in VOC_SETS:
        metadata = MetadataCatalog.get(name)
        assert (metadata.evaluator_type, metadata.ignore_label) == ("sem_seg", 255)
        # The order of VOC's development kit, to which the indices in its label images refer.
        assert metadata.stuff_classes == [
            "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
            "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
        ]  # fmt: skip


@pytest.fixture
def voc_sets_elsewhere(tmp_path, monkeypatch):
    """The built-in sets under another root, put back afterwards."""
    removed = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in VOC_SETS}
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_voc_sem_seg()
    yield tmp_path / "VOC2012"
    for name, (function, metadata) in removed.items():
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        DatasetCatalog.register(name, function)
        MetadataCatalog[name] = metadata


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [
        ("voc_2012_trainaug_sem_seg", "SegmentationClassAug", "trainaug"),
        ("voc_2012_val_sem_seg", "SegmentationClass", "val"),
    ],
)
def test_voc_sets__layout(voc_sets_elsewhere, name, folder, split):
    root = voc_sets_elsewhere
    with pytest.raises(FileNotFoundError, match=f"data set {name}: the images folder"):
        DatasetCatalog.get(name)
    make_folders(root, "2007_000001", "2007_000002")
    (root / "images").rename(root / "JPEGImages")
    (root / "labels").rename(root / folder)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("2007_000002\n")
    assert DatasetCatalog.get(name) == [
        {
            "file_name": f"{root}/JPEGImages/2007_000002.jpg",
            "sem_seg_file_name": f"{root}/{folder}/2007_000002.png",
            "image_id": "2007_000002",
        }
    ]
    assert MetadataCatalog.get(name).image_root == f"{root}/JPEGImages"
    assert MetadataCatalog.get(name).sem_seg_root == f"{root}/{folder}"

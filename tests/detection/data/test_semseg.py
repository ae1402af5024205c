from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import read_image
from PIL import Image

from mocodet.detection.data import register_datasets
from mocodet.detection.data.registration import VOC_SETS, register_voc_sem_seg
from mocodet.detection.data.semseg import load_semseg, read_labels
from mocodet.detection.training.preflight import check_datasets
from tests.detection.tiny import SEGMENTS, empty_config, make_semseg


def save_labels(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette([255 - i // 3 for i in range(768)])
    elif mode != "L":
        image = image.convert(mode)
    image.save(path)
    return path


def make_folders(root: Path, *names: str, suffix: str = ".jpg") -> tuple[str, str]:
    for name in names:
        path = root / "images" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
        save_labels(root / "labels" / f"{name}.png", np.zeros((3, 4)))
    return str(root / "images"), str(root / "labels")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_read_labels__are_the_indices(tmp_path, mode):
    values = np.array([[0, 1, 2], [20, 255, 7]])
    path = save_labels(tmp_path / "a.png", values, mode)
    found = read_labels(path, 21, 255)
    assert found.dtype == np.uint8
    assert found.tolist() == values.tolist()
    if mode == "P":  # what this function is for
        assert read_image(str(path), "L").squeeze(2).tolist() != values.tolist()


@pytest.mark.parametrize("mode", ["RGB", "LA", "1", "I;16"])
def test_read_labels__not_indices(tmp_path, mode):
    path = save_labels(tmp_path / "a.png", np.zeros((2, 2)), mode)
    with pytest.raises(
        ValueError, match=rf"a\.png has the mode {mode}.*; labels must be an 8-bit palette or grey image"
    ):
        read_labels(path, 21, 255)


def test_read_labels__value_that_is_no_class(tmp_path):
    path = save_labels(tmp_path / "a.png", np.array([[0, 3, 4, 9, 255]]))
    with pytest.raises(ValueError, match=r"a\.png holds the label 4, 9; labels must be below .* 4, or 255, which is"):
        read_labels(path, 4, 255)
    with pytest.raises(ValueError, match=r"holds the label 255;"):
        read_labels(path, 10, 0)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_read_labels__damaged(tmp_path, damage):
    path = save_labels(tmp_path / "a.png", np.random.default_rng(0).integers(0, 3, (40, 40)))
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"labels", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a label image"):
        read_labels(path, 3, 255)


def test_read_labels__missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no label image .*a\.png"):
        read_labels(tmp_path / "a.png", 3, 255)


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
        ("", ValueError, "names no image: the data set is empty"),
        ("a.jpg b.png\n", ValueError, r"one image name a line, found 'a\.jpg b\.png'"),
        ("z\n", FileNotFoundError, r"names z, but there is no such image in .*images"),
        (None, FileNotFoundError, r"no split file .*list\.txt; its folder has other\.txt"),
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
    with pytest.raises(FileNotFoundError, match="no folder of images nowhere"):
        load_semseg("mine", "nowhere", labels)
    with pytest.raises(FileNotFoundError, match="no folder of labels nowhere"):
        load_semseg("mine", images, "nowhere")
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images have no labels: there is no .*labels/b\.png"):
        load_semseg("mine", images, labels)


def test_load_semseg__ambiguous_or_empty_folder(tmp_path):
    images, labels = make_folders(tmp_path, "a")
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match=r"differ in nothing but their suffix and would share their labels: a$"):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CLASSES": ...}, "an entry of KIND semseg also needs CLASSES"),
        ({"LABELS": ...}, "an entry of KIND semseg also needs LABELS"),
        ({"CLASSES": ["a", "a"]}, "CLASSES names a more than once"),
        ({"IGNORE": 256}, "IGNORE is a value of 8-bit labels, 0 to 255, got 256"),
        ({"IGNORE": "255"}, "IGNORE must be a int"),
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
    check(make_semseg(tmp_path / "good", 1))
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
    with pytest.raises(FileNotFoundError, match=f"data set {name}: there is no folder of images"):
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

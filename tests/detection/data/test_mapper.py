from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, MapDataset
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import DataLoader

from mocodet import configs
from mocodet.common.errors import errors_in_one_line
from mocodet.detection.data.mapper import (
    PadToSize,
    RandomScale,
    SemSegMapper,
    augment,
    build_mapper,
    semseg_augmentations,
)
from tests.detection.tiny import empty_config

SIZE = 40, 56  # height, width
GREEN = 120  # of every pixel; it distinguishes padding


def make_record(root: Path) -> dict:
    """An image with red 6 times the row number and blue 4 times the column number, and labels of 4 quadrants."""
    height, width = SIZE
    y, x = np.mgrid[0:height, 0:width]
    Image.fromarray(np.stack([6 * y, np.full_like(y, GREEN), 4 * x], axis=-1).astype(np.uint8)).save(root / "a.png")
    labels = Image.fromarray((2 * (y >= height // 2) + (x >= width // 2)).astype(np.uint8))
    labels.putpalette([200, 10, 10, 3, 3, 3, 90, 200, 1, 8, 8, 250])
    labels.save(root / "labels.png")
    return {"file_name": str(root / "a.png"), "sem_seg_file_name": str(root / "labels.png"), "image_id": "a"}


def voc_config(**keys: object):
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_FCN_30k_moco.yaml")))
    cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
    return cfg


def quadrants(image: np.ndarray) -> np.ndarray:
    """The labels that follow from the colours of an image."""
    return 2 * (image[0] >= 6 * SIZE[0] / 2 - 3) + (image[2] >= 4 * SIZE[1] / 2 - 2)


def test_build_mapper__crop_of_fixed_size_with_labels_that_follow(tmp_path):
    record = make_record(tmp_path)
    mapper = build_mapper(voc_config(INPUT__CROP__SIZE=[49, 49], MODEL__SEM_SEG_HEAD__NUM_CLASSES=4), training=True)
    np.random.seed(0)
    padded = flipped = wrong = seen = 0
    for _ in range(40):
        mapped = mapper(record)
        image, labels = mapped["image"].numpy(), mapped["sem_seg"].numpy()
        assert image.shape == (3, 49, 49)
        assert mapped["image"].dtype == torch.uint8
        assert mapped["sem_seg"].dtype == torch.int64
        inside = abs(image[1].astype(int) - GREEN) < 2
        # The green of the pixel mean is 116.28, which differs from the image's 120.
        assert ((labels == 255) == ~inside).all()
        assert (image[:, ~inside] == np.array([[124], [116], [104]])).all()
        padded += (~inside).any()
        wrong += (labels != quadrants(image))[inside].sum()
        seen += inside.sum()
        blue = image[2][inside.all(1)] if inside.all(1).any() else image[2][inside.any(1)]
        columns = blue[0][(image[1][inside.any(1)][0] == GREEN)].astype(int)
        flipped += columns[0] > columns[-1]
    assert (mapped["height"], mapped["width"]) == SIZE
    assert wrong / seen < 0.03  # interpolation blurs the colours, not the labels, where quadrants meet
    assert 5 < padded < 35
    assert 8 < flipped < 32


def test_build_mapper__does_not_change_the_record(tmp_path):
    record = make_record(tmp_path)
    before = dict(record)
    build_mapper(voc_config(MODEL__SEM_SEG_HEAD__NUM_CLASSES=4), training=True)(record)
    assert record == before


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize("training", [True, False])
def test_build_mapper__of_detectors_maps_as_detectron2s(image_format, training, tmp_path):
    annotation = {"bbox": [4, 5, 30, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    record = {**make_record(tmp_path), "height": SIZE[0], "width": SIZE[1], "annotations": [annotation]}
    cfg = empty_config()
    cfg.merge_from_list(["INPUT.FORMAT", image_format, "INPUT.CROP.ENABLED", True])
    mapped = []
    for mapper in (DatasetMapper(cfg, training), build_mapper(cfg, training=training)):
        np.random.seed(3)
        mapped.append(mapper(record))
    expected, found = mapped
    assert found.keys() == expected.keys()
    assert torch.equal(found["image"], expected["image"])
    assert torch.equal(found["sem_seg"], expected["sem_seg"])
    if training:
        assert torch.equal(found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
    assert record["annotations"] == [annotation]


@pytest.mark.parametrize("objects", [0, 1])
def test_build_mapper__image_without_objects_where_masks_are_cropped(objects, tmp_path):
    record = make_record(tmp_path)
    crowd = {"bbox": [1, 1, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}
    record["annotations"] = [crowd] * objects
    mapped = build_mapper(empty_config(MODEL__MASK_ON=True, INPUT__CROP__ENABLED=True), training=True)(record)
    assert len(mapped["instances"]) == 0
    assert mapped["instances"].image_size == mapped["image"].shape[1:]
    assert "annotations" not in mapped


def test_build_mapper__a_refusal_in_a_loader_process_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    record = {**make_record(tmp_path), "height": SIZE[0], "width": SIZE[1]}
    path = tmp_path / "a.png"
    cfg = empty_config()
    spoilt = {
        "2,240 pixels, more than the limit of 2,000": lambda: None,
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-90]),
        "No such file": path.unlink,
    }
    for words, spoil in spoilt.items():
        spoil()
        cfg.INPUT.MAX_PIXELS = 2000 if "limit" in words else 0
        for kind, workers in (("GeneralizedRCNN", int("truncated" in words)), ("SemanticSegmentor", 0)):
            cfg.MODEL.META_ARCHITECTURE = kind
            dataset = MapDataset([record], build_mapper(cfg, training=False))
            with pytest.raises(SystemExit) as ended, errors_in_one_line():
                next(iter(DataLoader(dataset, num_workers=workers, collate_fn=list)))
            assert str(ended.value.code).startswith(f"error: {path} ")
            assert words in ended.value.code
            assert "\n" not in ended.value.code


def test_augmentations__without_scale_range_or_crop():
    cfg = voc_config(INPUT__SCALE_RANGE=(), INPUT__CROP__ENABLED=False, INPUT__RANDOM_FLIP="none")
    (resize,) = semseg_augmentations(cfg)
    assert isinstance(resize, T.ResizeShortestEdge)
    relative = voc_config(INPUT__CROP__TYPE="relative", INPUT__CROP__SIZE=[0.5, 0.5])
    assert [type(step) for step in semseg_augmentations(relative)] == [RandomScale, T.RandomCrop, T.RandomFlip]


def test_augmentations__crops_reach_all_corners():
    # detectron2's FixedSizeCrop would reach two.
    cfg = voc_config(INPUT__SCALE_RANGE=(1.0, 1.0), INPUT__CROP__SIZE=[20, 20], INPUT__RANDOM_FLIP="none")
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    image[[3, 3, 26, 26], [3, 26, 3, 26], 0] = (1, 2, 3, 4)
    np.random.seed(0)
    seen = set()
    for _ in range(60):
        augmented = T.AugInput(image)
        T.AugmentationList(semseg_augmentations(cfg))(augmented)
        seen |= set(np.unique(augmented.image).tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_random_scale__is_uniform_in_the_ratio_and_keeps_the_aspect():
    np.random.seed(0)
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    found = [RandomScale(0.5, 2.0).get_transform(image) for _ in range(400)]
    ratios = np.sort([transform.new_h / 200 for transform in found])
    assert all(abs(transform.new_w / transform.new_h - 1.5) < 0.02 for transform in found)
    assert 0.5 <= ratios[0] < 0.52
    assert 1.98 < ratios[-1] <= 2.0
    assert abs(ratios - np.linspace(0.5, 2.0, 400)).max() < 0.12


def test_pad_to_size__right_and_bottom():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    augmented = T.AugInput(image, sem_seg=np.array([[1, 2], [3, 4]], dtype=np.uint8))
    PadToSize((3, 4), (10.4, 20.6, 30.0), 255)(augmented)
    assert augmented.image.shape == (3, 4, 3)
    assert (augmented.image[:2, :2] == image).all()
    assert (augmented.image[2] == (10, 21, 30)).all()
    assert (augmented.image[:, 2:] == (10, 21, 30)).all()
    assert augmented.sem_seg.tolist() == [[1, 2, 255, 255], [3, 4, 255, 255], [255] * 4]


def test_pad_to_size__floats_are_exact_and_large_images_stay():
    image = np.zeros((2, 5, 3), dtype=np.float32)
    augmented = T.AugInput(image)
    PadToSize((3, 4), (0.25, 0.5, 0.75), 255)(augmented)
    assert augmented.image.shape == (3, 5, 3)
    assert augmented.image[2, 0].tolist() == [0.25, 0.5, 0.75]


def test_build_mapper__evaluation_original_size_and_no_labels(tmp_path):
    record = make_record(tmp_path)
    mapped = build_mapper(voc_config(), training=False)(record | {"sem_seg_file_name": "not read"})
    assert mapped.keys() == {"file_name", "image_id", "height", "width", "image"}
    assert mapped["image"].permute(1, 2, 0).numpy().tolist() == np.asarray(Image.open(tmp_path / "a.png")).tolist()
    assert (mapped["height"], mapped["width"]) == SIZE


def test_build_mapper__evaluation_channels_of_the_supervised_variant(tmp_path):
    record = make_record(tmp_path)
    rgb, bgr = (
        build_mapper(voc_config(INPUT__FORMAT=order), training=False)(record)["image"] for order in ("RGB", "BGR")
    )
    assert torch.equal(rgb.flip(0), bgr)


def test_mapper__labels_of_another_size(tmp_path):
    record = make_record(tmp_path)
    Image.new("L", (5, 6)).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match=r"labels\.png has 5 x 6 pixels, but its image .*a\.png has 56 x 40"):
        SemSegMapper([], "RGB", num_classes=4)(record)


def test_mapper__label_that_is_no_class(tmp_path):
    with pytest.raises(
        ValueError, match=r"labels\.png contains the label 3; labels must be below .* 3, or equal to 255"
    ):
        SemSegMapper([], "RGB", num_classes=3)(make_record(tmp_path))


def test_augment__names_an_image_that_cannot_be_resized():
    line = T.AugInput(np.zeros((1, 3000, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"^line\.png \(3000 x 1 pixels\) cannot be augmented: .*; remove it, or"):
        augment(T.AugmentationList([T.ResizeShortestEdge(800, 1333)]), line, "line.png")

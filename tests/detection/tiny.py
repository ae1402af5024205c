"""Tiny data sets, a tiny detector and a tiny segmentation network for the tests of this folder."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from mocodet import configs
from mocodet.detection import add_moco_config

CLASSES = ("cat", "dog")
SIZE = 64

_names = itertools.count()


def new_name() -> str:
    """A data set name that no other test has used: detectron2's catalogs are global."""
    return f"tiny_{next(_names)}"


# One object per image: (class, x0, y0, x1, y1) in pixels, exclusive at the end.
def boxes(count: int) -> list[tuple[str, int, int, int, int]]:
    return [(CLASSES[i % 2], 4 + i, 8, 36 + i, 40) for i in range(count)]


def _save_image(path: Path, index: int, box: tuple[str, int, int, int, int]) -> None:
    picture = np.random.default_rng(index).integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
    name, x0, y0, x1, y1 = box
    picture[y0:y1, x0:x1, CLASSES.index(name)] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def voc_object(name: str, box: Sequence[int], difficult: int = 0) -> str:
    x0, y0, x1, y1 = box
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )


def voc_annotation(*objects: str) -> str:
    size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def make_voc(root: Path, count: int = 4, split: str = "train") -> dict:
    """Write a VOC data set; return its entry for MOCO.DATASETS."""
    names = [f"{split}{i:03d}" for i in range(count)]
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for index, (name, box) in enumerate(zip(names, boxes(count), strict=True)):
        _save_image(root / "JPEGImages" / f"{name}.jpg", index, box)
        (root / "Annotations" / f"{name}.xml").write_text(voc_annotation(voc_object(box[0], box[1:])))
    return {"NAME": new_name(), "KIND": "voc", "ROOT": str(root), "SPLIT": split, "CLASSES": list(CLASSES)}


def crop_to_two_shapes(entry: dict) -> None:
    """Make every third image of a split of `make_voc` wider than high, and the others higher than wide."""
    root = Path(entry["ROOT"])
    for number, path in enumerate(sorted(root.glob(f"Annotations/{entry['SPLIT']}*"))):
        width, height = (48, SIZE) if number % 3 else (SIZE, 48)
        image = root / "JPEGImages" / f"{path.stem}.jpg"
        Image.open(image).crop((0, 0, width, height)).save(image)
        size = f"<width>{width}</width><height>{height}</height>"
        path.write_text(path.read_text().replace(f"<width>{SIZE}</width><height>{SIZE}</height>", size))


def make_coco(root: Path, count: int = 4) -> dict:
    """Write a COCO data set with masks; return its entry for MOCO.DATASETS."""
    images, annotations = [], []
    for index, box in enumerate(boxes(count)):
        _save_image(root / "images" / f"{index}.jpg", index, box)
        name, x0, y0, x1, y1 = box
        images.append({"id": index, "file_name": f"{index}.jpg", "height": SIZE, "width": SIZE})
        annotations.append(
            {
                "id": index + 1,
                "image_id": index,
                "category_id": 3 + 2 * CLASSES.index(name),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            }
        )
    categories = [{"id": 3 + 2 * i, "name": name} for i, name in enumerate(CLASSES)]
    json_file = root / "instances.json"
    json_file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return {"NAME": new_name(), "KIND": "coco", "JSON": str(json_file), "IMAGES": str(root / "images")}


# A ResNet-18 with dilated-C5's head: the smallest detector that goes through this plugin's own code.
DETECTOR = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.DILATED_C5.OUT_CHANNELS": 16,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32]],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 10,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_HEADS.NUM_CLASSES": len(CLASSES),
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "INPUT.MIN_SIZE_TRAIN": (SIZE,),
    "INPUT.MIN_SIZE_TEST": SIZE,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}


def options(output: Path, train: dict, test: dict, **more: object) -> list[str]:
    """KEY VALUE pairs that make a leaf config fine-tune the tiny detector; ``more`` has ``__`` for each dot."""
    keys = {
        **DETECTOR,
        "MOCO.DATASETS": [train, test],
        "DATASETS.TRAIN": (train["NAME"],),
        "DATASETS.TEST": (test["NAME"],),
        "OUTPUT_DIR": str(output),
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return [text for key, value in keys.items() for text in (key, str(value))]


def empty_config(**keys: object) -> CfgNode:
    """detectron2's defaults with the plugin's keys; ``keys`` has ``__`` for each dot."""
    cfg = get_cfg()
    add_moco_config(cfg)
    cfg.merge_from_list([item for key, value in keys.items() for item in (key.replace("__", "."), value)])
    return cfg


SEGMENTS = ("background", "red", "green", "blue")


def leaf(name: str, **keys: object) -> CfgNode:
    """Make the config of a leaf of configs/, with changes."""
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path(f"{name}.yaml")))
    cfg.merge_from_list([item for key, value in keys.items() for item in (key.replace("__", "."), value)])
    return cfg


def _segmented(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image, H x W x 3, and its labels, H x W: two large discs, tinted and striped, on noise; sides differ."""
    rng = np.random.default_rng(index)
    height, width = (int(side) for side in rng.integers(88, 105, 2))
    y, x = np.mgrid[0:height, 0:width]
    labels = np.zeros((height, width), dtype=np.uint8)
    for centre in (0.27, 0.73):
        radius = rng.uniform(0.20, 0.25) * width
        inside = np.hypot(y - rng.uniform(0.3, 0.7) * height, x - centre * width) < radius
        labels[inside] = 1 + rng.integers(len(SEGMENTS) - 1)
    tints = np.concatenate([np.zeros((1, 3)), 80 * np.eye(3)])
    stripes = 20 * ((x + y) // 4 % 2) * (labels > 0)
    image = rng.uniform(60, 140) + tints[labels] + stripes[..., None] + rng.normal(0, 15, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), labels


def make_semseg(root: Path, count: int = 4, split: str = "train", first: int = 0) -> dict:
    """Write images with palette labels, with ignored outlines like VOC's; return their entry for MOCO.DATASETS.

    Images ``first`` to ``first + count`` of an endless list are drawn.
    """
    names = [f"{split}{i:03d}" for i in range(count)]
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for index, name in enumerate(names, start=first):
        image, labels = _segmented(index)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        edge = (np.diff(labels, axis=0, prepend=labels[:1]) != 0) | (
            np.diff(labels, axis=1, prepend=labels[:, :1]) != 0
        )
        picture = Image.fromarray(np.where(edge, 255, labels).astype(np.uint8))
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        picture.save(root / "labels" / f"{name}.png")
    return {
        "NAME": new_name(),
        "KIND": "semseg",
        "IMAGES": str(root / "images"),
        "LABELS": str(root / "labels"),
        "SPLIT": str(root / f"{split}.txt"),
        "CLASSES": list(SEGMENTS),
    }


# FCN-16s on a ResNet-50 with a quarter of the channels: the paper's strides and dilations at a fraction of the cost.
FCN = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(SEGMENTS),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "INPUT.CROP.SIZE": [97, 97],
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 1,
}


def fcn_config(output: Path, train: dict, test: dict, **more: object) -> CfgNode:
    """The random variant of the VOC leaf with the small network; ``more`` has ``__`` for each dot."""
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_FCN_30k_random.yaml")))
    keys = {
        **FCN,
        "MOCO.DATASETS": [train, test],
        "DATASETS.TRAIN": (train["NAME"],),
        "DATASETS.TEST": (test["NAME"],),
        "OUTPUT_DIR": str(output),
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg


def resnet_config(depth: int, norm: str) -> CfgNode:
    """detectron2's default detector with a fully trainable ResNet in torchvision's form, and three classes."""
    return empty_config(
        MODEL__DEVICE="cpu",
        MODEL__BACKBONE__FREEZE_AT=0,
        MODEL__RESNETS__DEPTH=depth,
        MODEL__RESNETS__NORM=norm,
        MODEL__RESNETS__STRIDE_IN_1X1=False,
        MODEL__RESNETS__RES2_OUT_CHANNELS=64 if depth < 50 else 256,
        MODEL__ROI_HEADS__NUM_CLASSES=3,
    )

"""Tiny data sets and a tiny detector for the tests of this folder."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from mocodet.detection import add_moco_config

CLASSES = ("cat", "dog")
SIZE = 64

_names = itertools.count()


def new_name() -> str:
    """A data set name that no other test has used: detectron2's catalogs are global."""
    return f"tiny_{next(_names)}"


# One object an image: (class, x0, y0, x1, y1) in pixels, exclusive at the end.
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

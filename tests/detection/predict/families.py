"""A tiny model of each family, with random weights, for the tests of this folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from mocodet.detection import Trainer, register_datasets
from mocodet.detection.data.classes import classes_of
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from tests.detection.tiny import DETECTOR, FCN, leaf, make_coco, make_semseg

FEW = {"TEST.DETECTIONS_PER_IMAGE": 6}
FPN = {
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]],
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
}
KEYPOINTS = ("nose", "left_ear", "right_ear")


def make_keypoints(root: Path, count: int = 4) -> dict:
    """Write a COCO data set of persons with three keypoints; return its entry for MOCO.DATASETS."""
    entry = make_coco(root, count)
    file = Path(entry["JSON"])
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 7, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": [[1, 2], [1, 3]]}]
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        row |= {"category_id": 7, "num_keypoints": 3}
        row["keypoints"] = [x + 2, y + 2, 2, x + width / 2, y + 5, 2, x + 5, y + height / 2, 1]
    file.write_text(json.dumps(content))
    return entry


@dataclass(frozen=True)
class Family:
    """A config, the keys that make its model tiny, and a data set for it."""

    config: str
    keys: dict[str, Any]
    make: Callable[[Path, int], dict] = make_coco
    shapes: set[str] = field(default_factory=set)  # what results hold beside boxes

    def config_of(self, entry: dict, output: Path) -> CfgNode:
        """Return the config of a model that is evaluated on a data set."""
        changed = {"MOCO.DATASETS": [entry], "DATASETS.TRAIN": (entry["NAME"],), "DATASETS.TEST": (entry["NAME"],)}
        keys = {**self.keys, **changed, "OUTPUT_DIR": str(output)}
        return leaf(self.config, **{key.replace(".", "__"): value for key, value in keys.items()})


FAMILIES = {
    "c4": Family("coco_R_50_C4_1x_random", DETECTOR | FEW, shapes={"segmentation"}),
    "fpn": Family("coco_R_50_FPN_1x_random", DETECTOR | FPN | FEW, shapes={"segmentation"}),
    "dc5": Family("pascal_voc_R_50_DC5_24k_random", DETECTOR | FEW),
    "keypoints": Family(
        "coco_keypoints_R_50_FPN_2x_random",
        DETECTOR
        | FPN
        | FEW
        | {
            "MODEL.ROI_HEADS.NUM_CLASSES": 1,
            "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": len(KEYPOINTS),
            "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,),
            "TEST.KEYPOINT_OKS_SIGMAS": [0.1, 0.1, 0.1],
        },
        make_keypoints,
        {"keypoints"},
    ),
    "fcn": Family("pascal_voc_R_50_FCN_30k_random", FCN | {"INPUT.MIN_SIZE_TEST": 64}, make_semseg),
}


def make_model(name: str, folder: Path, count: int = 2) -> tuple[CfgNode, dict]:
    """Write a data set, and a config and a checkpoint as after training; return config and data set."""
    family = FAMILIES[name]
    entry = family.make(folder / "data", count)
    cfg = family.config_of(entry, folder / "run")
    register_datasets(cfg)
    DatasetCatalog.get(entry["NAME"])
    torch.manual_seed(3)
    model = Trainer.build_model(cfg)
    spread_scores(model)
    MocoDetCheckpointer(model, cfg.OUTPUT_DIR, classes=classes_of(cfg, entry["NAME"])).save("model_final")
    Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
    return cfg, entry


def spread_scores(model: nn.Module) -> None:
    """Scale the last layers so that scores, masks and keypoints vary with position, and none is saturated."""

    def scale(layer: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        factor = 2 / output.std().clamp(min=1e-6)
        layer.weight.data.mul_(factor)
        return output * factor

    last = ("cls_score", "predictor", "score_lowres")
    layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in last]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    image = torch.randint(0, 256, (len(model.pixel_mean), 96, 128), generator=torch.manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        model.eval()([{"image": image}])
    for hook in hooks:
        hook.remove()

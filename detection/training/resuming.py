"""Checks that the run to go on with, by ``--resume``, is the one that the config describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from mocodet.common.nested import look_up

# What gives a model its layers, and their sizes.
MODEL_KEYS = (
    "MODEL.META_ARCHITECTURE",
    "MODEL.BACKBONE.NAME",
    "MODEL.RESNETS.DEPTH",
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
    "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
)


def check_resumed(cfg: CfgNode) -> None:
    """Check that the run in ``OUTPUT_DIR``, if it has a checkpoint, has the same scale, part of the labels and model.

    On the main process alone: it is about to overwrite the config that the run was started with.

    Raises:
        ValueError: the message says how the run can be continued.
    """
    file = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not (comm.is_main_process() and file.is_file() and file.with_name("last_checkpoint").is_file()):
        return
    saved = CfgNode.load_yaml_with_base(str(file))
    for check in (_check_scale, _check_labels, _check_model):
        check(cfg, saved)


def _check_scale(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to go on with has batches of the same size, if its schedule or this command's was scaled.

    An iteration of the one is not an iteration of the other, so the schedule would go on at the wrong place.

    Raises:
        ValueError: the message says how the run can be continued.
    """
    solver = saved.get("SOLVER", {})
    batch, processes = solver.get("IMS_PER_BATCH"), solver.get("REFERENCE_WORLD_SIZE", 0)
    if batch == cfg.SOLVER.IMS_PER_BATCH or not (processes or cfg.SOLVER.REFERENCE_WORLD_SIZE):
        return
    remedy = f"with {processes} processes and --scale-to-gpus" if processes else "without --scale-to-gpus"
    raise ValueError(
        f"--resume: the run in {cfg.OUTPUT_DIR} has a schedule for batches of {batch} images, but this command's is for"
        f" batches of {cfg.SOLVER.IMS_PER_BATCH}; resume it {remedy}, or choose another OUTPUT_DIR"
    )


def _check_labels(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to go on with learned from the same part of the labels.

    Raises:
        ValueError: the message says which part that is.
    """
    moco = saved.get("MOCO", {})  # of older runs, without these keys
    theirs, ours = ((part.get("TRAIN_FRACTION", 1.0), part.get("FRACTION_SEED", 0)) for part in (moco, cfg.MOCO))
    if theirs != ours and min(theirs[0], ours[0]) < 1:
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} learns from another part of the labels; resume it with"
            f" MOCO.TRAIN_FRACTION {theirs[0]} MOCO.FRACTION_SEED {theirs[1]}, or choose another OUTPUT_DIR"
        )


def _check_model(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to go on with has the same model: a checkpoint of other layers would be loaded in part.

    Raises:
        ValueError: the message says which keys differ, and how to start anew from these weights.
    """
    theirs, ours = ({key: look_up(config, key) for key in MODEL_KEYS} for config in (saved, cfg))
    if different := [key for key in MODEL_KEYS if theirs[key] is not None and theirs[key] != ours[key]]:
        changes = ", ".join(f"{key} {theirs[key]} there, {ours[key]} now" for key in different)
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} has another model ({changes}); to start from its weights, choose"
            f" another OUTPUT_DIR, leave out --resume and set MODEL.WEIGHTS {Path(cfg.OUTPUT_DIR, 'model_final.pth')}"
        )

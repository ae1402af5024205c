"""Checks that the run that ``--resume`` continues matches the config, and that it draws images as before."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from mocodet.common.checkpoint import holds_checkpoint, name_of_last
from mocodet.common.config.bases import read_settings
from mocodet.common.nested import changes, look_up
from mocodet.common.recovery import load_last
from mocodet.common.states import EXPECTED
from mocodet.common.text import on_one_line

from ..data.classes import classes_of, from_checkpoint
from .checkpoint import CLASSES_KEY

# The keys that determine a model's layers and their sizes, which layers are trained, and the input images.
MODEL_KEYS = (
    *("MODEL.META_ARCHITECTURE", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON"),
    *("MODEL.BACKBONE.NAME", "MODEL.BACKBONE.FREEZE_AT"),
    *(
        f"MODEL.RESNETS.{key}"
        for key in (
            *("DEPTH", "NORM", "NUM_GROUPS", "WIDTH_PER_GROUP", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS"),
            *("OUT_FEATURES", "STRIDE_IN_1X1", "RES5_DILATION", "DEFORM_ON_PER_STAGE", "DEFORM_MODULATED"),
        )
    ),
    *("MODEL.FPN.IN_FEATURES", "MODEL.FPN.OUT_CHANNELS", "MODEL.FPN.NORM", "MODEL.DILATED_C5.OUT_CHANNELS"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"),
    *("MODEL.RPN.HEAD_NAME", "MODEL.RPN.CONV_DIMS", "MODEL.RPN.IN_FEATURES"),
    *("MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.IN_FEATURES"),
    *(
        f"MODEL.ROI_BOX_HEAD.{key}"
        for key in (
            *("NAME", "NUM_FC", "FC_DIM", "NUM_CONV", "CONV_DIM", "NORM"),
            *("POOLER_RESOLUTION", "CLS_AGNOSTIC_BBOX_REG"),
        )
    ),
    *(f"MODEL.ROI_MASK_HEAD.{key}" for key in ("NAME", "NUM_CONV", "CONV_DIM", "NORM", "CLS_AGNOSTIC_MASK")),
    *(f"MODEL.ROI_KEYPOINT_HEAD.{key}" for key in ("NAME", "CONV_DIMS", "NUM_KEYPOINTS")),
    *(f"MODEL.SEM_SEG_HEAD.{key}" for key in ("NAME", "NUM_CLASSES", "IN_FEATURES", "CONVS_DIM", "NUM_CONVS", "NORM")),
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
)

# Key of the settings that determine the random draws, in the trainer's state in a checkpoint.
DRAWS_KEY = "draws"

# The keys that determine the images of an iteration and the random draws for them.
DRAW_KEYS = (
    *("SEED", "SOLVER.IMS_PER_BATCH", "MOCO.ACCUMULATION"),
    *("DATALOADER.SAMPLER_TRAIN", "DATALOADER.ASPECT_RATIO_GROUPING"),
)


def seed_of_run(cfg: CfgNode) -> int:
    """Return the seed of the run in ``OUTPUT_DIR`` if it has a checkpoint, or else a random seed.

    All processes must call this function, and all get the same seed. Checkpoints of older versions contain no seed.

    Raises:
        ValueError: the seed in the checkpoint is not valid.
    """
    kept = None
    if comm.is_main_process() and holds_checkpoint(cfg.OUTPUT_DIR):
        path, content = load_last(cfg.OUTPUT_DIR, lazily=True)
        kept = look_up(content, key := f"trainer.{DRAWS_KEY}.SEED")
        if not (kept is None or (type(kept) is int and 0 <= kept < 1 << 32)):
            raise ValueError(f"{path}: {key} is not a valid seed; {EXPECTED}")
    kept = comm.all_gather(kept)[0]
    return comm.shared_random_seed() if kept is None else kept


def draws_of(cfg: CfgNode, images: str) -> dict[str, Any]:
    """Return the settings that determine a run's random draws; ``images`` is the identity of `DrawnImages`."""
    return {key: look_up(cfg, key) for key in DRAW_KEYS} | {"images": images, "processes": comm.get_world_size()}


def other_draws(there: Any, now: Mapping[str, Any]) -> str:
    """Describe how a run's random draws differ from those of its checkpoint; empty if they do not differ.

    Args:
        there: the value in the checkpoint, which can be anything if the checkpoint is old or forged.
        now: the result of `draws_of`.
    """
    if not isinstance(there, Mapping):
        return "its checkpoint, like those of older versions, does not record how images were drawn"
    different = [key for key in now if there.get(key) != now[key]]
    return ", ".join(f"{key} is {now[key]} instead of {there.get(key)}" for key in different)


def check_resumed(cfg: CfgNode) -> None:
    """Check that the run in ``OUTPUT_DIR``, if it has a checkpoint, has the same scale, labels and model.

    Only the main process checks, because it is about to overwrite the config with which the run was started.

    Raises:
        ValueError: a setting differs; the message explains how to continue the run.
    """
    file = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not (comm.is_main_process() and file.is_file() and holds_checkpoint(cfg.OUTPUT_DIR)):
        return
    saved = read_settings(file).content
    for check in (_check_scale, _check_labels, _check_model):
        check(cfg, saved)


def _check_scale(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to resume has the same batch size, if its schedule or that of this command was scaled.

    Otherwise, iterations would cover different numbers of images, and the schedule would resume at the wrong point.

    Raises:
        ValueError: the batch size differs; the message explains how to continue the run.
    """
    batch, processes = look_up(saved, "SOLVER.IMS_PER_BATCH"), look_up(saved, "SOLVER.REFERENCE_WORLD_SIZE")
    if batch == cfg.SOLVER.IMS_PER_BATCH or not (processes or cfg.SOLVER.REFERENCE_WORLD_SIZE):
        return
    remedy = f"with {processes} processes and --scale-to-gpus" if processes else "without --scale-to-gpus"
    raise ValueError(
        f"--resume: the run in {cfg.OUTPUT_DIR} has a schedule for batches of {batch} images, but the schedule of this"
        f" command is for batches of {cfg.SOLVER.IMS_PER_BATCH}; resume it {remedy}, or choose another OUTPUT_DIR"
    )


def _check_labels(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to resume was trained on the same fraction of the labels.

    Raises:
        ValueError: the fraction or its seed differs; the message includes the values of the run.
    """
    theirs, ours = (
        (part.get("TRAIN_FRACTION", 1.0), part.get("FRACTION_SEED", 0))  # older runs lack these keys
        for part in (look_up(saved, "MOCO") or {}, cfg.MOCO)
    )
    if theirs != ours and not theirs[0] == ours[0] == 1:
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} was trained on a different subset of the labels; resume it with"
            f" MOCO.TRAIN_FRACTION {theirs[0]} MOCO.FRACTION_SEED {theirs[1]}, or choose another OUTPUT_DIR"
        )


def _check_model(cfg: CfgNode, saved: Mapping[str, Any]) -> None:
    """Check that the run to resume has the same model, because a checkpoint with other layers would load only in part.

    Raises:
        ValueError: the model differs; the message lists the differing keys and explains how to start a new run from
            these weights.
    """
    if different := changes(saved, cfg, MODEL_KEYS):
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} has a different model ({different}); {_from_its_weights(cfg)}"
        )


def check_resumed_classes(cfg: CfgNode) -> None:
    """Check that the run to resume, if there is one, learned the same classes in the same order.

    Only the main process checks. Old checkpoints, which do not record their classes, pass the check.

    Args:
        cfg: the config of the run, whose ``DATASETS.TRAIN`` has been loaded.

    Raises:
        ValueError: a class differs (the message names the first one and explains how to start a new run from these
            weights), or the checkpoint's classes are malformed.
    """
    if not (comm.is_main_process() and holds_checkpoint(cfg.OUTPUT_DIR)):
        return
    path, content = load_last(cfg.OUTPUT_DIR, lazily=True)
    kept = from_checkpoint(content.get(CLASSES_KEY))
    if kept is None and CLASSES_KEY in content:
        raise ValueError(f"{path}: {CLASSES_KEY} are malformed; {EXPECTED}")
    ours = classes_of(cfg, cfg.DATASETS.TRAIN[0])
    if kept is None or ours is None or kept.names == ours.names:
        return
    index, theirs, mine = next(
        (index, *pair)
        for index, pair in enumerate(zip_longest(kept.names, ours.names, fillvalue="absent"))
        if pair[0] != pair[1]
    )
    raise ValueError(
        f"--resume: the run in {cfg.OUTPUT_DIR} learned other classes than those of {cfg.DATASETS.TRAIN[0]} (class"
        f" {index} was {on_one_line(str(theirs))}, is now {mine}); restore the data set's CLASSES, or,"
        f" {_from_its_weights(cfg)}"
    )


def _from_its_weights(cfg: CfgNode) -> str:
    """Explain how to start a new run from the weights of the run in ``OUTPUT_DIR``."""
    weights = Path(cfg.OUTPUT_DIR, name_of_last(cfg.OUTPUT_DIR))
    return f"to start from its weights, choose another OUTPUT_DIR, omit --resume and set MODEL.WEIGHTS {weights}"

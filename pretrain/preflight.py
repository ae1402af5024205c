"""Checks that the inputs of a pre-training run exist, before anything is written."""

from pathlib import Path

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import errors_about, last_checkpoint
from mocodet.common.mistaken_file import refuse_missing

from .data.listing import search
from .keys import value_of

# Expected content of the folders in a config.
FOLDERS = {
    "DATA.ROOT": "the training images",
    "DATA.VAL_ROOT": "the validation images",
    "KNN.TRAIN_ROOT": "one folder for each class",
    "KNN.VAL_ROOT": "one folder for each class",
}


def check_inputs(cfg: CfgNode, *, resume: bool = False, original: str = "") -> None:
    """Refuse missing folders and files, and a folder of training images that holds no images.

    Args:
        cfg: a config that passed `check_config`.
        resume, original: see `PretrainTrainer.resume_or_start`.

    Raises:
        FileNotFoundError: the message names the key, its value, and the expectation.
    """
    for key, holds in FOLDERS.items():
        folder = value_of(cfg, key)
        if folder and not Path(folder).is_dir():
            raise FileNotFoundError(f"{key} {folder!r} is not a folder; give one that holds {holds}")
    root = cfg.DATA.ROOT
    if root and not any(listing.images for listing in search(root)):
        raise FileNotFoundError(
            f"DATA.ROOT {root!r} holds no images; searched at any depth for .jpg, .png and other formats that Pillow"
            " reads; give a folder that holds the training images"
        )
    if resume and _has_checkpoint(cfg.OUTPUT_DIR):
        return
    for key, file in (("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS), ("--resume-from", original)):
        if file:
            with errors_about(key):
                refuse_missing(file)


def _has_checkpoint(folder: str) -> bool:
    try:
        last_checkpoint(folder)
    except FileNotFoundError:
        return False
    return True

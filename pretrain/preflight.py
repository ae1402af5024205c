"""Checks that the inputs of a pre-training run exist before anything is written."""

from pathlib import Path

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import errors_about, last_checkpoint
from mocodet.common.mistaken_file import refuse_missing

from .data.listing import search
from .keys import value_of

# Expected content of the folders named in a config.
FOLDERS = {
    "DATA.ROOT": "the training images",
    "DATA.VAL_ROOT": "the validation images",
    "KNN.TRAIN_ROOT": "one subfolder for each class",
    "KNN.VAL_ROOT": "one subfolder for each class",
}


def check_inputs(cfg: CfgNode, *, resume: bool = False, original: str = "") -> None:
    """Check that all input folders and files exist, and that the training folder contains images.

    Args:
        cfg: a config that passed `check_config`.
        resume, original: see `PretrainTrainer.resume_or_start`.

    Raises:
        FileNotFoundError: an input is missing. The message contains the key, its value, and what was expected.
    """
    for key, holds in FOLDERS.items():
        folder = value_of(cfg, key)
        if folder and not Path(folder).is_dir():
            raise FileNotFoundError(f"{key} {folder!r} is not a folder; expected a folder that contains {holds}")
    root = cfg.DATA.ROOT
    if root and not any(listing.images for listing in search(root)):
        raise FileNotFoundError(
            f"DATA.ROOT {root!r} contains no images; it was searched recursively for .jpg, .png and other formats that"
            " Pillow supports. Set it to a folder that contains the training images"
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

"""Checks that ``--resume`` continues the pre-training that the config describes."""

from pathlib import Path

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import holds_checkpoint
from mocodet.common.config.bases import read_settings
from mocodet.common.nested import changes

# Keys that determine a method's parameters and its queue, and their sizes.
MODEL_KEYS = ("METHOD", "MODEL.ARCH", "MODEL.SMALL_STEM", "MODEL.HEAD", "MODEL.DIM", "CONTRAST.QUEUE_SIZE")


def check_resumed(cfg: CfgNode) -> None:
    """Check that the run in ``OUTPUT_DIR``, if it has a checkpoint and its config, has the same model.

    Raises:
        ValueError: the message says which keys differ.
    """
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    if not (file.is_file() and holds_checkpoint(cfg.OUTPUT_DIR)):
        return
    if different := changes(read_settings(file).content, cfg, MODEL_KEYS):
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} has another model ({different}); set these keys to their earlier"
            " values, or choose another OUTPUT_DIR and leave out --resume"
        )

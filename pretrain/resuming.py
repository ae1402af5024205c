"""Checks that a run continued with ``--resume`` matches its config."""

from pathlib import Path

from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import holds_checkpoint
from mocodet.common.config.bases import read_settings
from mocodet.common.nested import changes

# Keys that determine the parameters and the queue of a method, and their sizes.
MODEL_KEYS = ("METHOD", "MODEL.ARCH", "MODEL.SMALL_STEM", "MODEL.HEAD", "MODEL.DIM", "CONTRAST.QUEUE_SIZE")


def check_resumed(cfg: CfgNode) -> None:
    """Check that the run in ``OUTPUT_DIR`` has the model in ``cfg``, if it has a checkpoint and a config.

    Raises:
        ValueError: the models differ. The message lists the keys with different values.
    """
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    if not (file.is_file() and holds_checkpoint(cfg.OUTPUT_DIR)):
        return
    if different := changes(read_settings(file).content, cfg, MODEL_KEYS):
        raise ValueError(
            f"--resume: the run in {cfg.OUTPUT_DIR} has a different model ({different}); restore the earlier values of"
            " these keys, or choose another OUTPUT_DIR and omit --resume"
        )

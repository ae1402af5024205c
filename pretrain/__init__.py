"""MoCo pre-training: unlabelled images in, encoder weights out. Exported is the public API (docs/api.md)."""

from mocodet.common.requirements import require_detectron2

require_detectron2()

# All imports need the check above first.
from .config import check_config, get_cfg  # noqa: E402
from .keys import Key  # noqa: E402
from .methods import METHODS, EndToEnd, MemoryBank, Method, MomentumContrast, SupervisedClassifier  # noqa: E402
from .methods.heads import build_encoder  # noqa: E402
from .methods.shuffle_bn import BatchShuffle  # noqa: E402
from .run import pretrain  # noqa: E402

__all__ = [
    "METHODS",
    "BatchShuffle",
    "EndToEnd",
    "Key",
    "MemoryBank",
    "Method",
    "MomentumContrast",
    "SupervisedClassifier",
    "build_encoder",
    "check_config",
    "get_cfg",
    "pretrain",
]

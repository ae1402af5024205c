"""MoCo pre-training: unlabelled images in, encoder weights out. It exports the public API (docs/api.md)."""

from typing import TYPE_CHECKING

from mocodet.common.compiler import import_torchvision
from mocodet.common.lazy import lazy_exports
from mocodet.common.requirements import require_detectron2

require_detectron2()
import_torchvision()

__all__ = [
    "METHODS",
    "BatchShuffle",
    "DenseContrast",
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

if TYPE_CHECKING:
    from .config import check_config, get_cfg
    from .keys import Key
    from .methods import (
        METHODS,
        DenseContrast,
        EndToEnd,
        MemoryBank,
        Method,
        MomentumContrast,
        SupervisedClassifier,
    )
    from .methods.heads import build_encoder
    from .methods.shuffle_bn import BatchShuffle
    from .run import pretrain
else:
    _methods = (
        "METHODS",
        "DenseContrast",
        "EndToEnd",
        "MemoryBank",
        "Method",
        "MomentumContrast",
        "SupervisedClassifier",
    )
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "check_config": ".config",
            "get_cfg": ".config",
            "Key": ".keys",
            **dict.fromkeys(_methods, ".methods"),
            "build_encoder": ".methods.heads",
            "BatchShuffle": ".methods.shuffle_bn",
            "pretrain": ".run",
        },
    )

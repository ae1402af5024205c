"""The detectron2 plugin. Importing it registers models, data sets and weights, as detectron2's own projects do.

Call ``add_moco_config(cfg)`` to add the plugin's keys to a detectron2 config before merging a config file into it. The
names exported here form the public API (docs/api.md).
"""

from typing import TYPE_CHECKING

from mocodet.common.compiler import import_torchvision
from mocodet.common.lazy import lazy_exports
from mocodet.common.requirements import require_detectron2

require_detectron2()
import_torchvision()

# These imports require the check above.
from . import cityscapes_scripts, modeling  # noqa: E402 (`modeling` registers models)
from .data.registration import register_voc_sem_seg  # noqa: E402
from .weights.published import register as register_weights  # noqa: E402

cityscapes_scripts.register()
register_voc_sem_seg()
register_weights()

__all__ = [
    "CocoDataset",
    "EvaluationKind",
    "Predictor",
    "SemSegDataset",
    "Trainer",
    "VocDataset",
    "YoloDataset",
    "add_moco_config",
    "convert_file",
    "convert_state_dict",
    "modeling",
    "register_datasets",
    "register_kind",
]

if TYPE_CHECKING:
    from .config import add_moco_config
    from .data import CocoDataset, SemSegDataset, VocDataset, YoloDataset, register_datasets
    from .evaluation.kinds import EvaluationKind, register_kind
    from .predict.predictor import Predictor
    from .training.trainer import Trainer
    from .weights.convert import convert_file, convert_state_dict
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "add_moco_config": ".config",
            **dict.fromkeys(
                ("CocoDataset", "SemSegDataset", "VocDataset", "YoloDataset", "register_datasets"), ".data"
            ),
            **dict.fromkeys(("EvaluationKind", "register_kind"), ".evaluation.kinds"),
            "Predictor": ".predict.predictor",
            "Trainer": ".training.trainer",
            **dict.fromkeys(("convert_file", "convert_state_dict"), ".weights.convert"),
        },
    )

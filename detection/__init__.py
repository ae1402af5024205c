"""The detectron2 plugin: importing it registers models, data sets and weights, as detectron2's own projects do.

``add_moco_config(cfg)`` adds the plugin's keys to a detectron2 config before a config file is merged into it. What is
exported here is the public API (docs/api.md).
"""

from mocodet.common.requirements import require_detectron2

require_detectron2()

# All imports need the check above first.
from . import modeling  # noqa: E402 (registers models)
from .config import add_moco_config  # noqa: E402
from .data import CocoDataset, SemSegDataset, VocDataset, register_datasets  # noqa: E402
from .data.registration import register_voc_sem_seg  # noqa: E402
from .evaluation.kinds import EvaluationKind, register_kind  # noqa: E402
from .training.trainer import Trainer  # noqa: E402
from .weights.convert import convert_file, convert_state_dict  # noqa: E402
from .weights.published import register as register_weights  # noqa: E402

register_voc_sem_seg()
register_weights()

__all__ = [
    "CocoDataset",
    "EvaluationKind",
    "SemSegDataset",
    "Trainer",
    "VocDataset",
    "add_moco_config",
    "convert_file",
    "convert_state_dict",
    "modeling",
    "register_datasets",
    "register_kind",
]

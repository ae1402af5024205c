"""The detectron2 plugin: importing it registers models, data sets and weights, as detectron2's own projects do.

``add_moco_config(cfg)`` adds the plugin's keys to a detectron2 config before a config file is merged into it.
"""

from mocodet.common.requirements import require_detectron2

require_detectron2()

from . import modeling  # noqa: E402 (registers models; all imports need the check above first)
from .config import add_moco_config  # noqa: E402
from .data.semseg import register_voc_sem_seg  # noqa: E402
from .weights.published import register as register_weights  # noqa: E402

register_voc_sem_seg()
register_weights()

__all__ = ["add_moco_config", "modeling"]

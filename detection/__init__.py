"""The detectron2 plugin: importing it registers its models, as detectron2's own projects do.

``add_moco_config(cfg)`` adds the plugin's keys to a detectron2 config before a config file is merged into it.
"""

from mocodet.common.requirements import require_detectron2

require_detectron2()

from . import modeling  # noqa: E402 (registers the backbone and the ROI heads; needs the check above first)
from .config import add_moco_config  # noqa: E402

__all__ = ["add_moco_config", "modeling"]

"""The paper's additions to detectron2's networks (norm after res5, dilated C5, FCN), and norms for any device."""

from . import dilated_c5, fcn, roi_heads  # noqa: F401 (each module registers its classes)

"""The paper's additions to detectron2's networks: a norm after res5, dilated C5, an FCN; and norms for any device."""

from . import dilated_c5, fcn, roi_heads  # noqa: F401 (each registers its own)

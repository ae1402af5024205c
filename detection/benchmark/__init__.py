"""The detection part of ``mocodet benchmark``: comparisons with detectron2."""

"""MoCo pre-training: unlabelled images in, encoder weights out."""

from mocodet.common.requirements import require_detectron2

require_detectron2()

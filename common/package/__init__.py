"""mocodet: Momentum Contrast pre-training and detectron2 transfer learning. Unlabelled images in, detectors out."""

__version__ = "0.1.0"  # the only definition, which setup.py and `mocodet --version` read

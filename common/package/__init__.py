"""mocodet: Momentum Contrast pre-training and detectron2 transfer learning. Unlabelled images in, detectors out."""

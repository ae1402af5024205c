#!/usr/bin/env python
"""Classify images by the nearest neighbours of their features; see `--help` and pretrain/evaluation/cli.py."""

import warnings

warnings.filterwarnings("ignore")  # of libraries; the import of detectron2 causes several

from mocodet.pretrain.evaluation.cli import knn_main  # noqa: E402

if __name__ == "__main__":
    knn_main()

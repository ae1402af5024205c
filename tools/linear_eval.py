#!/usr/bin/env python
"""Train linear classifiers on the frozen features of a checkpoint; see `--help` and pretrain/evaluation/cli.py."""

import warnings

warnings.filterwarnings("ignore")  # of libraries; the import of detectron2 causes several

from mocodet.pretrain.evaluation.cli import linear_main  # noqa: E402

if __name__ == "__main__":
    linear_main()

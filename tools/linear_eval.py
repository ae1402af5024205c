#!/usr/bin/env python
"""Train linear classifiers on the frozen features of a checkpoint; see `--help` and pretrain/evaluation/cli.py."""

from mocodet.common.commands import linear

if __name__ == "__main__":
    linear()

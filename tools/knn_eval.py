#!/usr/bin/env python
"""Classify images by the nearest neighbours of their features; see `--help` and pretrain/evaluation/cli.py."""

from mocodet.common.commands import knn

if __name__ == "__main__":
    knn()

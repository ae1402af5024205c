#!/usr/bin/env python
"""Compute the metrics of saved predictions; see `--help` and detection/evaluation/cli.py."""

from mocodet.common.commands import evaluate

if __name__ == "__main__":
    evaluate()

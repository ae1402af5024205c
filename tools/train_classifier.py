#!/usr/bin/env python
"""Train, fine-tune or evaluate a classifier; see `--help` and pretrain/classify_cli.py."""

from mocodet.common.commands import classify

if __name__ == "__main__":
    classify()

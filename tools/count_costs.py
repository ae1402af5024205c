#!/usr/bin/env python
"""Count what a pre-training run costs; see `--help` and pretrain/costs.py."""

from mocodet.common.commands import costs

if __name__ == "__main__":
    costs()

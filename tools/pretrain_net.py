#!/usr/bin/env python
"""Pre-train an encoder; see `--help` and pretrain/cli.py."""

from mocodet.common.commands import pretrain

if __name__ == "__main__":
    pretrain()

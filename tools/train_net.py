#!/usr/bin/env python
"""Fine-tune or evaluate a detector; see `--help` and detection/cli.py."""

from mocodet.common.commands import train

if __name__ == "__main__":
    train()

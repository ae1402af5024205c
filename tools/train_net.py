#!/usr/bin/env python
"""Fine-tune or evaluate a detector. This script is equivalent to mocodet train."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("train")

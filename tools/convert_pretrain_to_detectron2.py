#!/usr/bin/env python
"""Convert a pre-training checkpoint for detectron2. This script is equivalent to mocodet convert."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("convert")

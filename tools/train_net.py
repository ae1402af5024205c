#!/usr/bin/env python
"""Fine-tune or evaluate a detector; the same as mocodet train."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("train")

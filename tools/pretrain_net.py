#!/usr/bin/env python
"""Pre-train an encoder. This script is equivalent to mocodet pretrain."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("pretrain")

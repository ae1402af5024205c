#!/usr/bin/env python
"""Pre-train an encoder; the same as mocodet pretrain."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("pretrain")

#!/usr/bin/env python
"""Pre-train an encoder; see `--help` and mocodet/pretrain/cli.py."""

from mocodet.pretrain.cli import main

if __name__ == "__main__":
    main()

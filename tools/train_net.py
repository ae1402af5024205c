#!/usr/bin/env python
"""Fine-tune or evaluate a detector; see `--help` and mocodet/detection/cli.py."""

from mocodet.detection.cli import main

if __name__ == "__main__":
    main()

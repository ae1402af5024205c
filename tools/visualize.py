#!/usr/bin/env python
"""Draw ground truth beside the predictions of several runs; see `--help` and detection/visualize_cli.py."""

from mocodet.common.commands import visualize

if __name__ == "__main__":
    visualize()

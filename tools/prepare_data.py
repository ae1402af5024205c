#!/usr/bin/env python
"""Download, lay out and check data sets; see `--help` and common/prepare/cli.py."""

from mocodet.common.commands import prepare_data

if __name__ == "__main__":
    prepare_data()

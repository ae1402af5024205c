#!/usr/bin/env python
"""Rewrite a pre-training checkpoint for detectron2; see `--help` and detection/convert_cli.py."""

from mocodet.common.commands import convert

if __name__ == "__main__":
    convert()

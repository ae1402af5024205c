#!/usr/bin/env python
"""Rewrite a pre-training checkpoint for detectron2; the same as mocodet convert."""

from mocodet.common.commands.main import run

if __name__ == "__main__":
    run("convert")

#!/usr/bin/env python
"""Write a folder of images to WebDataset shards, or the index of shards; see `--help` and docs/shards.md."""

from mocodet.common.commands import shards

if __name__ == "__main__":
    shards()

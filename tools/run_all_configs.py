#!/usr/bin/env python
"""Run every detection config for a few iterations on small data; see `--help` and detection/rehearsal/cli.py."""

from mocodet.common.commands import rehearse

if __name__ == "__main__":
    rehearse()

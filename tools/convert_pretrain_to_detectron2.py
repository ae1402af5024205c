#!/usr/bin/env python
"""Rewrite a pre-training checkpoint for detectron2: INPUT OUTPUT.pkl [--prefix P] [--no-verify]."""

import sys
import warnings

# Raised while detectron2 is imported, and of no use to whoever converts a file.
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*")

from mocodet.detection.convert_cli import main  # noqa: E402 (after the filter)

if __name__ == "__main__":
    sys.exit(main())

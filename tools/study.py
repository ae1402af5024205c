#!/usr/bin/env python3
"""Compare initialisations: `study.py --init moco=A.yaml --init random=B.yaml --reference random --output DIR`."""

import sys
from pathlib import Path

from mocodet.detection.study.cli import main

if __name__ == "__main__":
    main([sys.executable, str(Path(__file__).resolve().with_name("train_net.py"))])

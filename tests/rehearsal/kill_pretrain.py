"""``python -m tests.rehearsal.kill_pretrain``: kill -9 a pre-training on 800 images, eight of them damaged; go on.

The damage is of eight sorts, and the files that the run has listed are removed before it goes on. The exit status is 1
unless the run ends bit-identical to one that was not interrupted, and both list all eight. Takes two minutes on a
core.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.checkpoints import assert_equal_states
from tests.pretrain.damaged import png, write_damaged

SOUND = 792
CONFIG = """
LOG_PERIOD: 1
DATA: {{ROOT: {root}, NUM_WORKERS: 1, MAX_UNREADABLE: 0.01}}
AUGMENTATION: {{CROP_SIZE: 16}}
MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
CONTRAST: {{QUEUE_SIZE: 64}}
SOLVER: {{IMS_PER_BATCH: 16, MAX_EPOCHS: 1, PRECISION: float32, CHECKPOINT_PERIOD: 10}}
"""


def start(config: Path, output: Path, *flags: str) -> subprocess.Popen:
    """Start the command on the way to ``output``."""
    given = ("pretrain", "--config-file", config, *flags, "OUTPUT_DIR", output)
    command = [sys.executable, "-m", "mocodet", *map(str, given)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # OUTPUT_DIR/log.txt has it


def skipped(output: Path) -> list[str]:
    """Return the files that a run has listed."""
    path = output / "skipped.json"
    return sorted(entry["file"] for entry in json.loads(path.read_text())["skipped"]) if path.is_file() else []


def iterations(output: Path) -> int:
    """Return how many lines of metrics a run has written."""
    path = output / "metrics.json"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def main() -> None:
    """Train, train again with kills, compare, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments (default: 0)")
    args = parser.parse_args()
    stream = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root, config, whole, killed = (Path(folder, name) for name in ("pool", "config.yaml", "whole", "killed"))
        root.mkdir()
        for number in range(SOUND):
            (root / f"{number:03}.png").write_bytes(png(number, side=20))
        damaged = write_damaged(root)
        config.write_text(CONFIG.format(root=root))
        if start(config, whole).wait():
            sys.exit("the run that was not interrupted did not end well")
        for kill in range(args.kills):
            run, until = start(config, killed, "--resume"), iterations(killed) + stream.randint(11, 20)
            while run.poll() is None and iterations(killed) < until:
                time.sleep(0.05)
            run.kill()
            print(f"kill {kill + 1} after {iterations(killed)} lines of metrics; {len(skipped(killed))} files listed")
            run.wait()
            for name in skipped(killed):
                (root / name).unlink(missing_ok=True)
        if start(config, killed, "--resume").wait():
            sys.exit("the run that was killed did not end well")
        ends = [torch.load(output / "model_final.pth", weights_only=True) for output in (killed, whole)]
        assert_equal_states(*ends)
        lists = [skipped(output) for output in (whole, killed)]
    if lists != [damaged, damaged]:
        sys.exit(f"the lists are {lists}; expected {damaged} twice")
    print(f"{args.kills} kills; bit-identical to the run without one; both list all {len(damaged)} damaged files")


if __name__ == "__main__":
    main()

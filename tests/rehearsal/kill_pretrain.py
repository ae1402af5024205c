"""``python -m tests.rehearsal.kill_pretrain``: repeatedly kills (kill -9) and resumes a pre-training run.

The run uses 800 images, eight of which are damaged in different ways. Files that the run has listed as damaged are
removed before it is resumed. A random quarter of the kills may occur before the resumed run has taken a step. The exit
status is 1 unless the final state is bit-identical to that of an uninterrupted run, both runs list all eight files, and
no incomplete files are left. Each kill takes 15 seconds on one core.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.checkpoints import assert_equal_states, half_written
from tests.pretrain.damaged import png, write_damaged

SOUND = 792
STEPS = 20  # steps of the complete run per kill
STEPS_OF_EPOCH = 50
STARTING = 8.0  # approximate number of seconds until the first step
CONFIG = """
LOG_PERIOD: 1
DATA: {{ROOT: {root}, NUM_WORKERS: 1, MAX_UNREADABLE: 0.01}}
AUGMENTATION: {{CROP_SIZE: 16}}
MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
CONTRAST: {{QUEUE_SIZE: 64}}
SOLVER: {{IMS_PER_BATCH: 16, MAX_EPOCHS: {epochs}, PRECISION: float32, CHECKPOINT_PERIOD: 5}}
"""


def start(config: Path, output: Path, *flags: str) -> subprocess.Popen:
    """Start the command of the run in ``output``."""
    given = ("pretrain", "--config-file", config, *flags, "OUTPUT_DIR", output)
    command = [sys.executable, "-m", "mocodet", *map(str, given)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # see OUTPUT_DIR/log.txt


def skipped(output: Path) -> list[str]:
    """Return the files that a run has listed as damaged."""
    path = output / "skipped.json"
    return sorted(entry["file"] for entry in json.loads(path.read_text())["skipped"]) if path.is_file() else []


def iterations(output: Path) -> int:
    """Return the number of metrics lines that a run has written."""
    path = output / "metrics.json"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_once(config: Path, output: Path, stream: random.Random) -> None:
    """Start the run, kill it at a random moment, and report this moment.

    Raises:
        SystemExit: the run had already ended by itself.
    """
    run, begun = start(config, output, "--resume"), iterations(output)
    early, until = stream.random() < 0.25, begun + stream.randint(1, STEPS - 8)
    while not early and run.poll() is None and iterations(output) < until:
        time.sleep(0.01)
    time.sleep(stream.uniform(0, STARTING if early else 0.5))
    run.kill()
    if (status := run.wait()) >= 0:
        sys.exit(f"the run in {output} ended by itself, with status {status}; see its log.txt")
    writing = f", while it wrote {', '.join(half_written(output))}" if half_written(output) else ""
    print(f"after {iterations(output)} lines of metrics, {len(skipped(output))} files listed{writing}", flush=True)


def main() -> None:
    """Train once without and once with kills, compare the runs, and report the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the moments (default: 0)")
    args = parser.parse_args()
    stream = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root, config, whole, killed = (Path(folder, name) for name in ("pool", "config.yaml", "whole", "killed"))
        root.mkdir()
        for number in range(SOUND):
            (root / f"{number:03}.png").write_bytes(png(number, side=20))
        damaged = write_damaged(root)
        config.write_text(CONFIG.format(root=root, epochs=math.ceil(args.kills * STEPS / STEPS_OF_EPOCH)))
        if start(config, whole).wait():
            sys.exit("the uninterrupted run failed")
        for kill in range(args.kills):
            print(f"kill {kill + 1} ", end="")
            kill_once(config, killed, stream)
            for name in skipped(killed):
                (root / name).unlink(missing_ok=True)
        if start(config, killed, "--resume").wait():
            sys.exit("the killed run failed")
        ends = [torch.load(output / "model_final.pth", weights_only=True) for output in (killed, whole)]
        assert_equal_states(*ends)
        lists, left = [skipped(output) for output in (whole, killed)], half_written(killed)
    if lists != [damaged, damaged]:
        sys.exit(f"the lists of damaged files are {lists}; expected {damaged} twice")
    if left:
        sys.exit(f"incomplete files were left behind: {left}")
    print(f"{args.kills} kills: bit-identical to an uninterrupted run; both list all {len(damaged)}; nothing left")


if __name__ == "__main__":
    main()

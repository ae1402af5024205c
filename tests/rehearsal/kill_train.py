"""``python -m tests.rehearsal.kill_train``: repeatedly kills (kill -9) and resumes a fine-tuning run at random moments.

A random quarter of the kills may occur before the resumed run has written a checkpoint. The exit status is 1 unless the
final state and the results are identical to those of a run that was not killed, and no temporary files are left. With
``--folder``, the command continues after the kills already recorded there. Each kill takes 15 seconds on one core.
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

from mocodet.common.checkpoint import name_of_last
from tests.checkpoints import assert_equal_states, half_written
from tests.detection.tiny import crop_to_two_shapes, make_voc, options

CONFIG = "pascal_voc_R_50_DC5_24k_random.yaml"
PERIOD = 2  # number of iterations between two checkpoints
STEPS = 6  # steps of the complete run per kill
STARTING = 8.0  # approximate number of seconds until the first step
KEYS = {
    "SOLVER__CHECKPOINT_PERIOD": PERIOD,
    "SOLVER__BASE_LR": 0.001,
    "TEST__EVAL_PERIOD": 10,
    "INPUT__MIN_SIZE_TRAIN": (48, 64),
    "DATALOADER__NUM_WORKERS": 1,
}


def start(folder: Path, name: str, kills: int, precision: str) -> subprocess.Popen:
    """Start the command of the run in ``folder / name``."""
    entries = json.loads((folder / "data.json").read_text())
    keys = {**KEYS, "SOLVER__MAX_ITER": STEPS * kills, "SOLVER__AMP__ENABLED": precision == "bfloat16"}
    given = ("train", "--config-file", CONFIG, "--resume", *options(folder / name, *entries, **keys))
    command = [sys.executable, "-m", "mocodet", *given]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # see log.txt


def kill_once(folder: Path, kills: int, precision: str, stream: random.Random) -> str:
    """Start the run, kill it at a random moment, and describe this moment; return "" if the run had already ended."""
    output = folder / "killed"
    run, before, began = start(folder, "killed", kills, precision), name_of_last(output), time.monotonic()
    early = stream.random() < 0.25
    while not early and name_of_last(output) == before and run.poll() is None:
        time.sleep(0.01)
    time.sleep(stream.uniform(0, STARTING if early else 1.0))
    run.kill()
    if status := max(0, run.wait()):
        sys.exit(f"the run in {output} ended by itself, with status {status}; see its log.txt")
    if name_of_last(output) == "model_final.pth":
        return ""
    writing = f", while it wrote {', '.join(half_written(output))}" if half_written(output) else ""
    return f"after {time.monotonic() - began:.1f} s, last checkpoint {name_of_last(output) or 'none'}{writing}"


def prepare(folder: Path) -> None:
    """Write the data unless they exist."""
    if not (folder / "data.json").is_file():
        train, test = make_voc(folder / "data", 10), make_voc(folder / "data", 4, "test")
        crop_to_two_shapes(train)
        (folder / "data.json").write_text(json.dumps([train, test]))


def main() -> None:
    """Train with kills and once more without, compare the runs, and report the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the moments (default: 0)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="folder in which to keep all files (default: a temporary folder)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder)
        told = folder / "kills.txt"
        told.touch()
        for kill in range(len(told.read_text().splitlines()), args.kills):
            stream = random.Random(f"{args.seed}/{kill}")
            if not (when := kill_once(folder, args.kills, args.precision, stream)):
                break
            with told.open("a") as handle:
                handle.write(f"kill {kill + 1} {when}\n")
            print(f"kill {kill + 1} {when}", flush=True)
        for name in ("killed", "whole"):
            if start(folder, name, args.kills, args.precision).wait():
                sys.exit(f"the run in {folder / name} failed; see its log.txt")
        outputs = [folder / name for name in ("killed", "whole")]
        assert_equal_states(*(torch.load(output / "model_final.pth", weights_only=True) for output in outputs))
        results = [json.loads((output / "results.json").read_text()) for output in outputs]
        left, kills = half_written(outputs[0]), len(told.read_text().splitlines())
    if results[0] != results[1] or left:
        sys.exit(f"the results are {results[0]} and {results[1]}; files left behind: {left}")
    print(f"{kills} kills, {args.precision}: bit-identical to an uninterrupted run, same results, nothing left")


if __name__ == "__main__":
    main()

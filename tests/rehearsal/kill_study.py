"""``python -m tests.rehearsal.kill_study``: kills a study of twelve toy trials at ten random moments, then finishes it.

One of the trials fails with NaN and another with a missing file. A random half of the kills affect only the study, and
the others affect its entire process group. The exit status is 1 if two processes trained a trial at the same time, if a
trial was not completed exactly once, or if a failure has no reason. The test takes two minutes, because the trials do
not use PyTorch.

With ``--trainings``, the trials are two real fine-tuning runs of twenty iterations. The exit status is 1 unless the
tables, metrics and checkpoints are identical to those of a study that was not killed, and no incomplete files are left.
Each kill takes half a minute on one core.
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

from tests.checkpoints import assert_equal_states, half_written
from tests.common.study.killing import harass, kill, records
from tests.detection.tiny import crop_to_two_shapes, make_voc, options

SEEDS = 3  # seeds for each of four initialisations
ITERATION = 1.0  # seconds; a trial has three iterations

CONFIG = "pascal_voc_R_50_DC5_24k_random.yaml"
INITS = (f"slow={CONFIG},SOLVER.BASE_LR=0.0005", f"fast={CONFIG},SOLVER.BASE_LR=0.001")
KEYS = {"SOLVER__MAX_ITER": 20, "SOLVER__CHECKPOINT_PERIOD": 2, "TEST__EVAL_PERIOD": 10}
STARTING = 30.0  # approximate number of seconds until the first step


def start(folder: Path, pairs: list[str]) -> subprocess.Popen:
    """Start a study of fine-tuning runs in ``folder`` in its own process group, with the output in ``printed.txt``."""
    folder.mkdir(exist_ok=True)
    inits = [word for init in INITS for word in ("--init", init)]
    words = ["study", *inits, "--reference", "slow", "--seeds", "1", "--output", "study", *pairs]
    with (folder / "printed.txt").open("w") as printed:
        command = [sys.executable, "-m", "mocodet", *words]
        return subprocess.Popen(command, cwd=folder, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)


def progress(folder: Path) -> list[str]:
    """Return the names of the last checkpoints of the trials that have one."""
    return [path.read_text() for path in sorted(folder.rglob("last_checkpoint"))]


def tables(folder: Path) -> dict[str, object]:
    """Return the results of a study of fine-tuning runs: its tables, and the metrics and weights of its trials."""
    results = json.loads((folder / "study" / "results.json").read_text())
    ends = {path.parent: path for path in sorted(folder.rglob("model_final.pth"))}
    return {
        "tables": {path.name: path.read_bytes() for path in sorted((folder / "study").glob("report.*"))},
        "metrics": [(trial["folder"], trial["status"], trial["metrics"]) for trial in results["trials"]],
        "ends": {str(parent.relative_to(folder)): torch.load(path, weights_only=True) for parent, path in ends.items()},
    }


def kill_trainings(folder: Path, kills: int, stream: random.Random) -> None:
    """Kill a study of fine-tuning runs repeatedly, finish it, and compare it with a study that was not killed.

    Raises:
        AssertionError: the two studies differ.
        SystemExit: one of the studies failed.
    """
    train, test = make_voc(folder / "data", 10), make_voc(folder / "data", 4, "test")
    crop_to_two_shapes(train)
    words = options(folder, train, test, **KEYS)
    pairs = [
        word
        for pair in zip(words[::2], words[1::2], strict=True)
        for word in pair
        if pair[0] not in ("OUTPUT_DIR", "SEED")
    ]
    killed, whole = folder / "killed", folder / "whole"
    for number in range(kills):
        before, study, alone = progress(killed), start(killed, pairs), stream.random() < 0.5
        early = stream.random() < 0.25
        while not early and progress(killed) == before and study.poll() is None:
            time.sleep(0.01)
        time.sleep(stream.uniform(0, STARTING if early else 1.0))
        kill(study, whole_group=not alone)
        print(f"kill {number + 1}, of {'the study' if alone else 'all'}, at {progress(killed)}", flush=True)
    for place in (killed, whole):
        if start(place, pairs).wait():
            sys.exit(f"the study failed: {(place / 'printed.txt').read_text()}")
    found, expected = tables(killed), tables(whole)
    assert len(found["ends"]) == len(INITS)
    assert_equal_states(found, expected)
    assert not (left := half_written(killed)), left
    print(f"{kills} kills of a study of {len(INITS)} trainings: its tables, metrics and checkpoints are bit-identical")


def main() -> None:
    """Parse the arguments, kill the study repeatedly, and report the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--trainings", action="store_true", help="use real fine-tuning runs, one at a time")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="number of toy trials at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the moments (default: 0)")
    args = parser.parse_args()
    stream = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        if args.trainings:
            kill_trainings(Path(folder), args.kills, stream)
            return
        moments = [stream.uniform(0.2, 4.0) for _ in range(args.kills)]
        results = harass(Path(folder), SEEDS, args.jobs, ITERATION, moments, stream)
        begun = sum(word.startswith("begin") for _, word, _, _ in records(Path(folder)))
    for trial in results["trials"]:
        print(f"{trial['init']}, seed {trial['seed']}: {trial['status']}, {trial['reason'] or trial['metrics']}")
    print(f"{args.kills} kills, {begun} starts of {len(results['trials'])} trials; each was trained once to its end")


if __name__ == "__main__":
    main()

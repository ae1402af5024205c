"""``python -m tests.rehearsal.kill_study``: kill a study of twelve toy trials at ten random moments, then let it end.

Of the trials one fails by NaN and one by a missing file. Every second kill, by chance, is of the study alone, the
others of its whole process group. The exit status is 1 if a trial was trained by two processes at a time or not once
to its end, or if a failure lacks its reason. Takes two minutes; a trial needs no PyTorch.
"""

import argparse
import random
import tempfile
from pathlib import Path

from tests.common.study.killing import harass, records

SEEDS = 3  # of four initialisations
ITERATION = 1.0  # seconds; a trial has three


def main() -> None:
    """Parse the arguments, kill, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the moments (default: 0)")
    args = parser.parse_args()
    stream = random.Random(args.seed)
    moments = [stream.uniform(0.2, 4.0) for _ in range(args.kills)]
    with tempfile.TemporaryDirectory() as folder:
        results = harass(Path(folder), SEEDS, args.jobs, ITERATION, moments, stream)
        begun = sum(word.startswith("begin") for _, word, _, _ in records(Path(folder)))
    for trial in results["trials"]:
        print(f"{trial['init']}, seed {trial['seed']}: {trial['status']}, {trial['reason'] or trial['metrics']}")
    print(f"{args.kills} kills, {begun} starts of {len(results['trials'])} trials; each was trained once to its end")


if __name__ == "__main__":
    main()

"""``python -m tests.rehearsal``: every detection config, run for a few iterations on small data."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mocodet.common.errors import errors_in_one_line
from tests.rehearsal.layouts import make_layouts
from tests.rehearsal.report import summary, table
from tests.rehearsal.run import IMAGE_SIZE, Outcome, leaf_configs, rehearse
from tests.rehearsal.stand_ins import make_stand_ins

DESCRIPTION = """Train 3 iterations with every detection config, resume to 5, evaluate the result, and print a table.

The configs of DensePose run only if detectron2's DensePose project can be imported, for example with its folder on
PYTHONPATH; the body surface that it downloads is replaced by an invented one. Otherwise the last line says how many
were left out.

Only sizes, schedules, the score threshold and MODEL.WEIGHTS are overridden; everything else, including the names of the
data sets, comes from the config. The images are generated, in the layouts that VOC, COCO, LVIS and Cityscapes have on
disk; --datasets names a folder with others (the toy configs always use the toy set). The weights are not real: the
supervised variants read a ResNet-50 with random values in the Caffe2 layout of MSRA's R-50.pkl, the MoCo variants one
in MoCo's layout after conversion, and the variants of COCO detectors one with the names of detectron2's zoo.

Further changes may be given as KEY VALUE pairs, such as MODEL.DEVICE cuda SOLVER.AMP.ENABLED True.

The exit status is 1 if any config fails: it does not train, it does not resume where it stopped, or --eval-only gives
results other than the evaluation at the end of the training.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, run everything, print the table."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/rehearsal"), help="logs and data go here")
    parser.add_argument(
        "--datasets", type=Path, metavar="DIR", help="use the data sets in DIR, like DETECTRON2_DATASETS"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the configs whose name contains TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="configs to run at a time")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to every config")
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        parser.error(f"changes are KEY VALUE pairs, got {' '.join(args.opts)}")
    changes = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    leaves = [path for path in leaf_configs() if args.only in path.stem]
    if not leaves:
        parser.error(f"no config has {args.only!r} in its name; known: {', '.join(p.stem for p in leaf_configs())}")
    with errors_in_one_line():
        datasets = args.datasets or generated_data(args.output / "datasets")
        if not datasets.is_dir():
            raise FileNotFoundError(f"--datasets {datasets}: there is no such folder")
        start = time.perf_counter()
        stand_ins = make_stand_ins(args.output / "weights")
        outcomes = rehearse(
            leaves, datasets, stand_ins, args.output, lambda leaf: changes, jobs=args.jobs, announce=_announce
        )
    print(table(outcomes))
    print(summary(outcomes, time.perf_counter() - start))
    sys.exit(any(outcome.outcome.startswith("FAILED") for outcome in outcomes))


def generated_data(root: Path) -> Path:
    """Generate the data sets in ``root`` unless they exist."""
    if not root.exists():
        make_layouts(root, size=IMAGE_SIZE, train=16, val=8)
    return root


def _announce(outcome: Outcome) -> None:
    print(f"{outcome.config}: {outcome.outcome}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

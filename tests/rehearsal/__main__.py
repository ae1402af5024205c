"""``python -m tests.rehearsal``: runs every detection config for a few iterations on small data."""

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

The DensePose configs run only if detectron2's DensePose project can be imported, for example with its folder on
PYTHONPATH. The body surface that the project downloads is replaced by an artificial one. If the project cannot be
imported, the last line reports the number of omitted configs.

Only sizes, schedules, the score threshold and MODEL.WEIGHTS are overridden. All other settings, including the names of
the data sets, come from the config. The images are generated in the layouts that VOC, COCO, LVIS and Cityscapes have on
disk; --datasets specifies a folder with other data sets (the toy configs always use the toy set). The weights are
random values: the supervised variants load a ResNet-50 in the Caffe2 layout of MSRA's R-50.pkl, the MoCo variants load
one that was converted from MoCo's layout, and the COCO variants load one with the names of detectron2's zoo.

Further changes can be specified as KEY VALUE pairs, such as MODEL.DEVICE cuda SOLVER.AMP.ENABLED True.

The exit status is 1 if a config fails: it does not train, it does not resume from the iteration at which it stopped, or
the results of --eval-only differ from those of the evaluation at the end of training.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, run all configs, and print the table."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/rehearsal"), help="folder for logs and data")
    parser.add_argument(
        "--datasets", type=Path, metavar="DIR", help="use the data sets in DIR, like DETECTRON2_DATASETS"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the configs whose name contains TEXT")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="number of configs to run at a time"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to all configs")
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        parser.error(f"expected changes as KEY VALUE pairs, got {' '.join(args.opts)}")
    changes = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    leaves = [path for path in leaf_configs() if args.only in path.stem]
    if not leaves:
        parser.error(f"no config name contains {args.only!r}; known names: {', '.join(p.stem for p in leaf_configs())}")
    with errors_in_one_line():
        datasets = args.datasets or generated_data(args.output / "datasets")
        if not datasets.is_dir():
            raise FileNotFoundError(f"--datasets {datasets}: the folder does not exist")
        start = time.perf_counter()
        stand_ins = make_stand_ins(args.output / "weights")
        outcomes = rehearse(
            leaves, datasets, stand_ins, args.output, lambda leaf: changes, jobs=args.jobs, announce=_announce
        )
    print(table(outcomes))
    print(summary(outcomes, time.perf_counter() - start))
    sys.exit(any(outcome.outcome.startswith("FAILED") for outcome in outcomes))


def generated_data(root: Path) -> Path:
    """Generate the data sets in ``root`` unless this folder exists."""
    if not root.exists():
        make_layouts(root, size=IMAGE_SIZE, train=16, val=8)
    return root


def _announce(outcome: Outcome) -> None:
    print(f"{outcome.config}: {outcome.outcome}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

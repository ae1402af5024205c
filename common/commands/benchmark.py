"""Measure the speed of each part of mocodet against a plain reference, in turn, in one process.

  mocodet benchmark                          # every part: about ten minutes on one core
  mocodet benchmark step --case resnet50,224,32 --device cuda
  mocodet benchmark input --images imagenet/train --crop 224 --workers 2
  mocodet benchmark --quick --json output/benchmark.json

Each table shows the speed of a contestant relative to the reference, as median and quartiles of pairs of runs, and what
limits it. docs/performance.md describes the references. 'mocodet benchmark PART --help' shows the flags of a part.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from mocodet import configs

from .arguments import positive


class Case(NamedTuple):
    """The size of a step: architecture, side of the images in pixels, images in a batch."""

    arch: str
    size: int
    batch: int


def parse_case(text: str) -> Case:
    """Split ``ARCH,SIZE,BATCH``."""
    words = text.split(",")
    try:
        arch, size, batch = words[0], *map(positive(int), words[1:])
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ARCH,SIZE,BATCH such as resnet50,224,16, got {text!r}") from None
    return Case(arch, size, batch)


class Flag(NamedTuple):
    """A flag of a part.

    Attributes:
        name: such as ``"pairs"``.
        full: its default.
        help: its help text.
        how: further arguments of ``add_argument``.
        quick: its default with --quick; None: the same as ``full``.
    """

    name: str
    full: Any
    help: str
    how: dict[str, Any]
    quick: Any = None

    def default(self, quick: bool) -> Any:
        """Return the default, with --quick or without."""
        return self.full if self.quick is None or not quick else self.quick


class Part(NamedTuple):
    """A part of mocodet that can be measured.

    Attributes:
        name: what the user types.
        does: ``module:function``; the function takes the parsed arguments and yields lists of rows.
        help: what is compared, in one line.
        flags: the flags of this part.
    """

    name: str
    does: str
    help: str
    flags: tuple[Flag, ...]


COUNT: dict[str, Any] = {"type": positive(int), "metavar": "N"}
DEVICE = Flag("device", "auto", "auto: CUDA if there is a GPU, else the CPU", {"choices": ("auto", "cpu", "cuda")})
SMALL = Case("resnet18", 48, 64)


def pairs(full: int) -> Flag:
    """Make the flag for the number of measurements of a contestant."""
    return Flag("pairs", full, "runs of each contestant", COUNT, quick=1)


STEP = (
    Flag(
        "case",
        [Case("resnet50", 224, 16), Case("resnet50", 64, 64), SMALL],
        "what to train; one or more",
        {"type": parse_case, "nargs": "+", "metavar": "ARCH,SIZE,BATCH"},
        quick=[Case("resnet18", 32, 16)],
    ),
    Flag(
        "queue",
        None,
        "measure instead the trainer's step with these queue lengths (without K: 256 65536 262144)",
        {"type": positive(int), "nargs": "*", "metavar": "K"},
    ),
    Flag("profile", False, "show instead the ten longest operations of the trainer's step", {"action": "store_true"}),
    pairs(5),
    DEVICE,
)
INPUT = (
    Flag("images", None, "folder of photographs (default: generated images)", {"metavar": "DIR"}),
    Flag("crop", None, "side of the views in pixels (default: 224)", COUNT),
    Flag("count", None, "images in a run (default: 48; with --workers 1024)", COUNT, quick=16),
    Flag(
        "workers",
        0,
        "measure the whole loader with N processes, in wall time, on idle cores; 0: CPU time",
        {"type": positive(int, or_zero=True), "metavar": "N"},
    ),
    Flag("rate", 2000, "images/s that the training takes; the table shows how many cores they need", COUNT),
    pairs(5),
)
TRAIN = (
    Flag("detection", False, "measure fine-tuning against plain detectron2", {"action": "store_true"}),
    Flag("config-file", "pretrain/toy_moco_v2_R_18.yaml", "a config of pre-training", {"metavar": "FILE"}),
    Flag("iterations", 5, "steps in a run", COUNT, quick=1),
    Flag("size", 160, "with --detection: side of the images in pixels", COUNT, quick=64),
    Flag("batch", 2, "with --detection: images in a batch", COUNT),
    Flag("regions", 32, "with --detection: regions per image for the heads (paper: 512)", COUNT, quick=4),
    pairs(5),
    DEVICE,
)
EVALUATE = (
    Flag("metric", ["voc", "coco"], "which metrics", {"nargs": "+", "choices": ("voc", "coco")}),
    Flag("images", 600, "generated images (VOC's test2007 has 4952)", COUNT, quick=60),
    Flag("detections", 100, "detections in each image", COUNT, quick=10),
    pairs(1),
)
COLLECTIVES = (
    Flag("processes", 2, "processes on this machine, over gloo", COUNT),
    Flag("rows", 32, "images of each process", COUNT, quick=4),
    Flag("size", 224, "side of the images in pixels", COUNT, quick=32),
    pairs(9),
)
CONVERT = (Flag("arch", "resnet50", "architecture of the encoder", {"metavar": "ARCH"}, quick="resnet18"), pairs(5))
STARTUP = (Flag("files", 200_000, "image files to list", COUNT, quick=100), pairs(3))

PARTS = (
    Part(
        "step",
        "mocodet.pretrain.benchmark.step:measure",
        "a step of MoCo: the original code's, in float32 and under autocast, against the trainer's",
        STEP,
    ),
    Part(
        "input",
        "mocodet.pretrain.benchmark.input:measure",
        "two views of a photograph: Pillow and torchvision against the loader's",
        INPUT,
    ),
    Part(
        "train",
        "mocodet.pretrain.benchmark.train:measure",
        "training from files: the original code's loop against the trainer's, detectron2's against fine-tuning's",
        TRAIN,
    ),
    Part(
        "evaluate",
        "mocodet.detection.benchmark.evaluate:measure",
        "VOC's and COCO's metrics: detectron2's evaluators against mocodet's, which must give the same numbers",
        EVALUATE,
    ),
    Part(
        "collectives",
        "mocodet.pretrain.benchmark.collectives:measure",
        "exchange between processes: all images and keys gathered against only the rows that are needed",
        COLLECTIVES,
    ),
    Part(
        "convert",
        "mocodet.detection.benchmark.convert:measure",
        "conversion for detectron2, with and without verification, against reading and writing the file",
        CONVERT,
    ),
    Part(
        "startup",
        "mocodet.pretrain.benchmark.startup:measure",
        "help, imports, and the listing of a folder against torchvision's",
        STARTUP,
    ),
)

# What `mocodet benchmark` measures without a PART, in this order.
ALL = (
    ["step"],
    ["input"],
    ["train"],
    ["train", "--detection"],
    ["evaluate"],
    ["step", "--queue"],
    ["collectives"],
    ["convert"],
    ["startup"],
)
QUEUES, QUICK_QUEUES = (256, 65536, 262144), (64, 256)
GROUPS = 8  # of batch norm, as on the paper's eight GPUs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the parts, and the flags that all of them share, which may stand before or after a part."""
    _add_common(parser, threads=1, json=None, quick=False)
    commands = parser.add_subparsers(dest="part", metavar="PART", help="what to measure (default: all parts)")
    for part in PARTS:
        of_part = commands.add_parser(part.name, help=part.help, description=f"{part.help[0].upper()}{part.help[1:]}.")
        for flag in part.flags:
            default = "" if flag.full in (None, False) else f" (default: {_shown(flag.full)})"
            # Absent unless given, because the default depends on --quick.
            of_part.add_argument(f"--{flag.name}", default=argparse.SUPPRESS, help=f"{flag.help}{default}", **flag.how)
        _add_common(of_part, threads=argparse.SUPPRESS, json=argparse.SUPPRESS, quick=argparse.SUPPRESS)


def _add_common(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    add = parser.add_argument
    add(
        "--threads",
        type=positive(int),
        default=defaults["threads"],
        metavar="N",
        help="threads of PyTorch on the CPU (default: 1)",
    )
    add("--json", default=defaults["json"], metavar="FILE", help="also write the rows to this file")
    add(
        "--quick",
        action="store_true",
        default=defaults["quick"],
        help="run each part once at the smallest size, to see that it works",
    )


def _shown(value: Any) -> str:
    if isinstance(value, Case):
        return ",".join(map(str, value))
    return " ".join(map(_shown, value)) if isinstance(value, (list, tuple)) else str(value)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the flags of one part, or of all; ``runs`` of the result has one namespace for each measurement."""
    args = parser.parse_args(words)
    runs = [args] if args.part else [parser.parse_args([*words, *part]) for part in ALL]
    for run in runs:
        _complete(run)
    return argparse.Namespace(runs=runs, threads=args.threads, json=args.json)


def _complete(run: argparse.Namespace) -> None:
    """Fill in the defaults, which depend on --quick, the function that measures (``does``), and the flags ``given``."""
    part = next(part for part in PARTS if part.name == run.part)
    defaults = {flag.name.replace("-", "_"): flag.default(run.quick) for flag in part.flags}
    run.given = sorted(vars(run).keys() & defaults.keys())
    run.does = part.does
    for name, default in defaults.items():
        vars(run).setdefault(name, default)
    if run.part == "train" and run.detection:
        run.does = "mocodet.detection.benchmark.train:measure"
    if run.part == "step" and run.queue is not None:
        run.queue = run.queue or list(QUICK_QUEUES if run.quick else QUEUES)
        run.case = run.case if "case" in run.given or run.quick else [SMALL]


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags without effect, sizes that cannot be measured, and a config that does not exist."""
    for run in args.runs:
        if of_part := CHECKS.get(run.part):
            of_part(parser, run)


def _check_step(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    for case in run.case:
        if case.batch % GROUPS or case.batch < 2 * GROUPS:
            parser.error(
                f"--case {_shown(case)}: the batch is normalised in {GROUPS} groups of two or more images; give a"
                f" multiple of {GROUPS}, at least {2 * GROUPS}"
            )
    if run.queue and run.profile:
        parser.error("--queue and --profile are different measurements; give one of them")
    if run.queue and len(run.queue) < 2:
        parser.error(f"--queue {run.queue[0]}: queues are compared with the first; give two or more")


def _check_train(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    foreign = ("config_file", "iterations") if run.detection else ("size", "batch", "regions")
    if nothing := [f"--{name.replace('_', '-')}" for name in foreign if name in run.given]:
        parser.error(f"{', '.join(nothing)} {'has no effect with' if run.detection else 'needs'} --detection")
    try:
        configs.locate(run.config_file)
    except FileNotFoundError as error:
        parser.error(f"--config-file: {error}")


def _check_collectives(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    if run.processes < 2:
        parser.error(f"--processes {run.processes}: one process exchanges nothing; give two or more")


CHECKS = {"step": _check_step, "train": _check_train, "collectives": _check_collectives}

"""Compare the speed of each component of mocodet with a plain reference implementation.

  mocodet benchmark                          # all components; takes about ten minutes on one core
  mocodet benchmark step --case resnet50,224,32 --device cuda
  mocodet benchmark input --images imagenet/train --crop 224 --workers 2
  mocodet benchmark --quick --json output/benchmark.json

The compared implementations run alternately in one process. Each table reports their speed relative to the reference,
as the median and quartiles over pairs of runs, and the limiting factor. docs/performance.md describes the reference
implementations. Run 'mocodet benchmark PART --help' to list the flags of a benchmark.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from mocodet import configs

from .arguments import positive


class Case(NamedTuple):
    """The size of a training step: architecture, image side in pixels, and batch size."""

    arch: str
    size: int
    batch: int


def parse_case(text: str) -> Case:
    """Parse ``ARCH,SIZE,BATCH``."""
    words = text.split(",")
    try:
        arch, size, batch = words[0], *map(positive(int), words[1:])
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected ARCH,SIZE,BATCH such as resnet50,224,16, got {text!r}") from None
    return Case(arch, size, batch)


class Flag(NamedTuple):
    """A command-line flag of a benchmark.

    Attributes:
        name: name without the leading dashes, such as ``"pairs"``.
        full: default value.
        help: help text.
        how: further keyword arguments for ``add_argument``.
        quick: default value with ``--quick``; None means the same as ``full``.
    """

    name: str
    full: Any
    help: str
    how: dict[str, Any]
    quick: Any = None

    def default(self, quick: bool) -> Any:
        """Return the default value, with or without ``--quick``."""
        return self.full if self.quick is None or not quick else self.quick


class Part(NamedTuple):
    """A benchmark of one component of mocodet.

    Attributes:
        name: name on the command line.
        does: ``module:function``; the function takes the parsed arguments and yields lists of rows.
        help: one-line description of the comparison.
        flags: flags of this benchmark.
    """

    name: str
    does: str
    help: str
    flags: tuple[Flag, ...]


COUNT: dict[str, Any] = {"type": positive(int), "metavar": "N"}
DEVICE = Flag(
    "device",
    "auto",
    "device to run on; auto selects CUDA if a GPU is available, and the CPU otherwise",
    {"choices": ("auto", "cpu", "cuda")},
)
SMALL = Case("resnet18", 48, 64)


def pairs(full: int) -> Flag:
    """Create the flag for the number of runs of each implementation."""
    return Flag("pairs", full, "number of runs of each implementation", COUNT, quick=1)


STEP = (
    Flag(
        "case",
        [Case("resnet50", 224, 16), Case("resnet50", 64, 64), SMALL],
        "one or more training steps to measure, given by architecture, image side in pixels and batch size",
        {"type": parse_case, "nargs": "+", "metavar": "ARCH,SIZE,BATCH"},
        quick=[Case("resnet18", 32, 16)],
    ),
    Flag(
        "queue",
        None,
        "measure the trainer's step with these queue lengths instead (without K: 256 65536 262144)",
        {"type": positive(int), "nargs": "*", "metavar": "K"},
    ),
    Flag(
        "profile",
        False,
        "list the ten most time-consuming operations of the trainer's step instead",
        {"action": "store_true"},
    ),
    pairs(5),
    DEVICE,
)
INPUT = (
    Flag("images", None, "folder of photographs (default: generated images)", {"metavar": "DIR"}),
    Flag("crop", None, "side length of the views in pixels (default: 224)", COUNT),
    Flag("count", None, "number of images per run (default: 48, or 1024 with --workers)", COUNT, quick=16),
    Flag(
        "workers",
        0,
        "measure the wall time of the complete data loader with N worker processes, which requires idle cores; 0"
        " measures CPU time",
        {"type": positive(int, or_zero=True), "metavar": "N"},
    ),
    Flag("rate", 3600, "training throughput in images/s; the table reports how many CPU cores it requires", COUNT),
    pairs(5),
)
TRAIN = (
    Flag("detection", False, "compare fine-tuning with plain detectron2", {"action": "store_true"}),
    Flag("config-file", "pretrain/toy_moco_v2_R_18.yaml", "pre-training config", {"metavar": "FILE"}),
    Flag("iterations", 5, "number of steps per run", COUNT, quick=1),
    Flag("size", 160, "with --detection: image side in pixels", COUNT, quick=64),
    Flag("batch", 2, "with --detection: batch size", COUNT),
    Flag("regions", 32, "with --detection: number of regions per image for the heads (paper: 512)", COUNT, quick=4),
    pairs(5),
    DEVICE,
)
EVALUATE = (
    Flag("metric", ["voc", "coco"], "metrics to compute", {"nargs": "+", "choices": ("voc", "coco")}),
    Flag("images", 600, "number of generated images (VOC test2007 contains 4952)", COUNT, quick=60),
    Flag("detections", 100, "number of detections per image", COUNT, quick=10),
    pairs(1),
)
COLLECTIVES = (
    Flag("processes", 2, "number of processes on this machine, which communicate over gloo", COUNT),
    Flag("rows", 32, "number of images per process", COUNT, quick=4),
    Flag("size", 224, "image side in pixels", COUNT, quick=32),
    pairs(9),
)
CONVERT = (Flag("arch", "resnet50", "encoder architecture", {"metavar": "ARCH"}, quick="resnet18"), pairs(5))
STARTUP = (Flag("files", 200_000, "number of image files to list", COUNT, quick=100), pairs(3))

PARTS = (
    Part(
        "step",
        "mocodet.pretrain.benchmark.step:measure",
        "a MoCo training step: the original code, in float32 and with autocast, compared with the trainer",
        STEP,
    ),
    Part(
        "input",
        "mocodet.pretrain.benchmark.input:measure",
        "creation of two views of a photograph: Pillow and torchvision compared with the data loader",
        INPUT,
    ),
    Part(
        "train",
        "mocodet.pretrain.benchmark.train:measure",
        "training on image files: the original code compared with the trainer, or plain detectron2 with fine-tuning",
        TRAIN,
    ),
    Part(
        "evaluate",
        "mocodet.detection.benchmark.evaluate:measure",
        "VOC and COCO metrics: detectron2's evaluators compared with mocodet's, which must give identical results",
        EVALUATE,
    ),
    Part(
        "collectives",
        "mocodet.pretrain.benchmark.collectives:measure",
        "communication of processes: gathering all images and keys compared with exchanging only the required rows",
        COLLECTIVES,
    ),
    Part(
        "convert",
        "mocodet.detection.benchmark.convert:measure",
        "conversion for detectron2, with and without verification, compared with reading and writing the file",
        CONVERT,
    ),
    Part(
        "startup",
        "mocodet.pretrain.benchmark.startup:measure",
        "printing help, importing packages, and listing a folder compared with torchvision",
        STARTUP,
    ),
)

# The measurements of `mocodet benchmark` without a PART, in order.
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
GROUPS = 8  # of batch normalisation, as on the paper's eight GPUs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks and their shared flags, which may come before or after the name of a benchmark."""
    _add_common(parser, threads=1, output=None, quick=False)
    commands = parser.add_subparsers(dest="part", metavar="PART", help="benchmark to run (default: all)")
    for part in PARTS:
        of_part = commands.add_parser(part.name, help=part.help, description=f"{part.help[0].upper()}{part.help[1:]}.")
        for flag in part.flags:
            default = "" if flag.full in (None, False) else f" (default: {_shown(flag.full)})"
            # The attribute is absent unless the flag is given, because the default depends on --quick.
            of_part.add_argument(f"--{flag.name}", default=argparse.SUPPRESS, help=f"{flag.help}{default}", **flag.how)
        _add_common(of_part, threads=argparse.SUPPRESS, output=argparse.SUPPRESS, quick=argparse.SUPPRESS)


def _add_common(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    add = parser.add_argument
    add(
        "--threads",
        type=positive(int),
        default=defaults["threads"],
        metavar="N",
        help="number of CPU threads that PyTorch uses (default: 1)",
    )
    what = "also write all rows to this JSON file"
    add("--json", dest="output", default=defaults["output"], metavar="FILE", help=what)
    add(
        "--quick",
        action="store_true",
        default=defaults["quick"],
        help="run each benchmark once at the smallest size, as a functional test",
    )


def _shown(value: Any) -> str:
    if isinstance(value, Case):
        return ",".join(map(str, value))
    return " ".join(map(_shown, value)) if isinstance(value, (list, tuple)) else str(value)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one or all benchmarks; ``runs`` of the result contains a namespace per measurement."""
    args = parser.parse_args(words)
    runs = [args] if args.part else [parser.parse_args([*words, *part]) for part in ALL]
    for run in runs:
        _complete(run)
    return argparse.Namespace(runs=runs, threads=args.threads, output=args.output)


def _complete(run: argparse.Namespace) -> None:
    """Set the measuring function ``does``, the names of the ``given`` flags, and defaults, which depend on --quick."""
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
    """Exit with an error if a flag has no effect, a size cannot be measured, or the config does not exist."""
    for run in args.runs:
        if of_part := CHECKS.get(run.part):
            of_part(parser, run)


def _check_step(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    for case in run.case:
        if case.batch % GROUPS or case.batch < 2 * GROUPS:
            parser.error(
                f"--case {_shown(case)}: batch normalisation uses {GROUPS} groups of at least two images; choose a"
                f" batch size that is a multiple of {GROUPS} and at least {2 * GROUPS}"
            )
    if run.queue and run.profile:
        parser.error("--queue cannot be combined with --profile; use one of them")
    if run.queue and len(run.queue) < 2:
        parser.error(f"--queue {run.queue[0]}: expected at least two lengths, because the first is the reference")


def _check_train(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    foreign = ("config_file", "iterations") if run.detection else ("size", "batch", "regions")
    if nothing := [f"--{name.replace('_', '-')}" for name in foreign if name in run.given]:
        parser.error(f"{', '.join(nothing)} {'cannot' if run.detection else 'can only'} be used with --detection")
    try:
        configs.locate(run.config_file)
    except FileNotFoundError as error:
        parser.error(f"--config-file: {error}")


def _check_collectives(parser: argparse.ArgumentParser, run: argparse.Namespace) -> None:
    if run.processes < 2:
        parser.error(f"--processes {run.processes}: expected at least two, because a single process exchanges no data")


CHECKS = {"step": _check_step, "train": _check_train, "collectives": _check_collectives}

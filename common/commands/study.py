"""Fine-tune detectors from multiple initialisations with multiple seeds, and compare the results.

  mocodet study studies/table_4.yaml --output output/table_4
  mocodet study --init moco=pascal_voc_R_50_C4_24k_moco.yaml \\
      --init supervised=pascal_voc_R_50_C4_24k.yaml --reference supervised --seeds 5 --output output/voc_study

To resume an interrupted study, run the same command again. For a cluster, --print-commands prints the training command
of each trial, and 'mocodet study collect STUDY.yaml' tabulates the results. docs/studies.md describes the format of a
STUDY.yaml.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mocodet import configs
from mocodet.common.text import did_you_mean

from .arguments import check_config, check_pairs, positive

# A comma ends a value only if KEY= follows. Keys are in capitals.
SEPARATOR = re.compile(r",(?=[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*=)")


def parse_init(argument: str) -> tuple[str, str, tuple[str, ...]]:
    """Split ``NAME=CONFIG[,KEY=VALUE...]`` into name, config and overrides. A VALUE may contain commas."""
    first, *others = SEPARATOR.split(argument)
    name, _, config = first.partition("=")
    if not (name and config):
        raise argparse.ArgumentTypeError(f"expected NAME=CONFIG[,KEY=VALUE...], got {argument!r}")
    pairs = [other.partition("=") for other in others]
    return name, config, tuple(word for key, _, value in pairs for word in (key, value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the study or the flags that define one, the GPUs for its trials, and its output folder."""
    add, count, seed = parser.add_argument, positive(int), positive(int, or_zero=True)
    add(
        "words",
        nargs="*",
        metavar="[collect] [STUDY.yaml] [KEY VALUE ...]",
        help="a STUDY.yaml or the folder of a study, preceded by 'collect' if its trials were trained elsewhere; then"
        " config keys to override, given as KEY VALUE pairs, which take precedence over the STUDY.yaml",
    )
    add(
        "--init",
        action="append",
        default=[],
        type=parse_init,
        metavar="NAME=CONFIG[,KEY=VALUE...]",
        help="without a STUDY.yaml: name, config file and overrides (such as MODEL.WEIGHTS) of an initialisation;"
        " repeat --init for each one. A comma ends a VALUE only if KEY= follows",
    )
    add(
        "--reference",
        metavar="NAME",
        help="initialisation that the others are compared with (default: the one in the STUDY.yaml)",
    )
    add(
        "--seeds",
        type=count,
        metavar="N",
        help="number of trials per initialisation (default: as in the STUDY.yaml, or 5)",
    )
    what = (
        "first seed; the seeds are S, S+1, ... (default: the seeds in the STUDY.yaml or, with --seeds, the smallest of"
        " them; 0 without a STUDY.yaml)"
    )
    add("--first-seed", type=seed, metavar="S", help=what)
    what = "number of trials to run in parallel (default: as many as the GPUs allow, or 1 on the CPU)"
    add("--jobs", type=count, metavar="N", help=what)
    what = "number of GPUs for each trial, which are not shared; 0 trains on the CPU (default: 1 if a GPU is available)"
    add("--gpus-per-trial", type=seed, metavar="N", help=what)
    what = "do not train; print the training command of each unfinished trial, one per line, for use on a cluster"
    add("--print-commands", action="store_true", help=what)
    what = "output folder for the trials and the tables (default with a STUDY.yaml: output/NAME)"
    add("--output", metavar="DIR", help=what)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse flags and positional arguments in any order; set ``action``, ``study`` and ``opts`` from the latter."""
    args = parser.parse_intermixed_args(words)
    rest = list(args.words)
    args.action = rest.pop(0) if rest[:1] == ["collect"] else "run"
    named = rest and not args.init
    args.study = rest.pop(0) if named else None
    args.opts = rest
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if the flags do not define one study, a file does not exist, or a KEY lacks a VALUE."""
    if args.study is None and not args.init:
        parser.error("expected a STUDY.yaml, or --init NAME=CONFIG for each initialisation")
    _check_words(parser, args)
    check_pairs(parser, args.opts)
    if args.study is None:
        check_config(parser, args, {f"--init {name}": config for name, config, _ in args.init})
        names = [name for name, _, _ in args.init]
        if len(set(names)) != len(names):
            parser.error(f"the names given with --init must be unique, got {', '.join(names)}")
        if missing := [flag for flag in ("reference", "output") if getattr(args, flag) is None]:
            parser.error(f"--init requires --{' and --'.join(missing)}")
        if args.reference not in names:
            parser.error(f"the reference {args.reference!r} is not among the initialisations {', '.join(names)}")
    collects = args.action == "collect"
    trains = not (collects or args.print_commands)
    for flag, idle in (
        ("--print-commands", collects and args.print_commands),
        ("--jobs", not trains and args.jobs is not None),
        ("--gpus-per-trial", collects and args.gpus_per_trial is not None),
    ):
        if idle:
            parser.error(
                f"{flag} cannot be combined with {'collect' if collects else '--print-commands'}, which does not train"
            )


def _check_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if positional arguments are in the wrong order, or if the STUDY.yaml does not exist."""
    if args.opts[:1] == ["collect"]:
        parser.error(f"'collect' must come before {args.study}")
    if args.init and args.opts and Path(args.opts[0]).suffix in (".yaml", ".yml"):
        parser.error(f"{args.opts[0]} cannot be combined with --init, because both define a study; use one of them")
    if args.study is None or Path(args.study).is_dir():
        return
    try:
        configs.locate(args.study)
    except OSError:  # also raised if the name is too long
        known = [name for name in configs.names() if name.startswith("studies/")]
        parser.error(
            f"study {args.study} not found; expected the path of a STUDY.yaml, the folder of a study, or one of"
            f" mocodet's own studies ({', '.join(known)}), followed by any KEY VALUE pairs"
            f"{did_you_mean(args.study, known)}"
        )

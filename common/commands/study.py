"""Fine-tune detectors from several initialisations, with several seeds, and compare them.

  mocodet study studies/table_4.yaml --output output/table_4
  mocodet study --init moco=pascal_voc_R_50_C4_24k_moco.yaml \\
      --init supervised=pascal_voc_R_50_C4_24k.yaml --reference supervised --seeds 5 --output output/voc_study

After an interruption, run the same command again. On a cluster, --print-commands prints the commands of the trials, and
'mocodet study collect STUDY.yaml' tabulates their results. docs/studies.md describes a STUDY.yaml.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mocodet import configs
from mocodet.common.text import did_you_mean

from .arguments import check_config, check_pairs, positive

# A comma ends a value only before the next KEY=; keys are in capitals.
SEPARATOR = re.compile(r",(?=[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*=)")


def parse_init(argument: str) -> tuple[str, str, tuple[str, ...]]:
    """Split ``NAME=CONFIG[,KEY=VALUE...]`` into name, config and KEY, VALUE, ...; a VALUE may hold commas."""
    first, *others = SEPARATOR.split(argument)
    name, _, config = first.partition("=")
    if not (name and config):
        raise argparse.ArgumentTypeError(f"expected NAME=CONFIG[,KEY=VALUE...], got {argument!r}")
    pairs = [other.partition("=") for other in others]
    return name, config, tuple(word for key, _, value in pairs for word in (key, value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the study, or the flags that describe one, the GPUs of its trials and its folder."""
    add, count, seed = parser.add_argument, positive(int), positive(int, or_zero=True)
    add(
        "words",
        nargs="*",
        metavar="[collect] [STUDY.yaml] [KEY VALUE ...]",
        help="a STUDY.yaml or a study's folder, after 'collect' if its trials were trained elsewhere; then config keys"
        " to override, given in pairs, which take precedence over the file's",
    )
    add(
        "--init",
        action="append",
        default=[],
        type=parse_init,
        metavar="NAME=CONFIG[,KEY=VALUE...]",
        help="without a STUDY.yaml: name, config file and overrides of an initialisation, such as MODEL.WEIGHTS; give "
        "--init once for each. A comma ends a VALUE only if KEY= follows",
    )
    add(
        "--reference",
        metavar="NAME",
        help="the initialisation that the others are compared with (default: the STUDY.yaml's)",
    )
    add(
        "--seeds",
        type=count,
        metavar="N",
        help="trials of each initialisation (default: as many as the STUDY.yaml has, or 5)",
    )
    what = "seeds are S, S+1, ... (default: the STUDY.yaml's, or 0; with --seeds the smallest of these)"
    add("--first-seed", type=seed, metavar="S", help=what)
    add("--jobs", type=count, metavar="N", help="trials at a time (default: as many as the GPUs allow; on a CPU 1)")
    what = "GPUs of each trial, not shared (default: 1 if there is a GPU; 0: train on the CPU)"
    add("--gpus-per-trial", type=seed, metavar="N", help=what)
    what = "train nothing; print the command of each unfinished trial, one per line, for a cluster"
    add("--print-commands", action="store_true", help=what)
    what = "folder for the trials and the tables (default with a STUDY.yaml: output/NAME)"
    add("--output", metavar="DIR", help=what)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse flags and words in any order; set ``action``, ``study`` and ``opts`` from the words."""
    args = parser.parse_intermixed_args(words)
    rest = list(args.words)
    args.action = rest.pop(0) if rest[:1] == ["collect"] else "run"
    named = rest and not args.init
    args.study = rest.pop(0) if named else None
    args.opts = rest
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that do not describe one study, files that do not exist, and a KEY without a VALUE."""
    if args.study is None and not args.init:
        parser.error("expected a STUDY.yaml, or --init NAME=CONFIG for each initialisation")
    _check_words(parser, args)
    check_pairs(parser, args.opts)
    if args.study is None:
        check_config(parser, args, {f"--init {name}": config for name, config, _ in args.init})
        names = [name for name, _, _ in args.init]
        if len(set(names)) != len(names):
            parser.error(f"--init names must differ, got {', '.join(names)}")
        if missing := [flag for flag in ("reference", "output") if getattr(args, flag) is None]:
            parser.error(f"--init needs --{' and --'.join(missing)}")
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
            parser.error(f"{'collect' if collects else '--print-commands'} trains nothing; leave out {flag}")


def _check_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse words in the wrong order, and a STUDY.yaml that does not exist."""
    if args.opts[:1] == ["collect"]:
        parser.error(f"'collect' comes before {args.study}")
    if args.init and args.opts and Path(args.opts[0]).suffix in (".yaml", ".yml"):
        parser.error(f"{args.opts[0]} and --init both describe a study; give one of them")
    if args.study is None or Path(args.study).is_dir():
        return
    try:
        configs.locate(args.study)
    except OSError:  # the name may be too long
        known = [name for name in configs.names() if name.startswith("studies/")]
        parser.error(
            f"there is no study {args.study}; expected, before KEY VALUE pairs, the path of a STUDY.yaml, a study's"
            f" folder, or one of mocodet's own: {', '.join(known)}{did_you_mean(args.study, known)}"
        )

"""Fine-tune the same detector from several initialisations with several seeds and compare them.

  mocodet study --init moco=configs/pascal_voc_R_50_C4_24k_moco.yaml \\
      --init supervised=configs/pascal_voc_R_50_C4_24k.yaml --reference supervised --seeds 5 --output output/voc_study

Run it again to go on after an interruption.
"""

import argparse

from .arguments import add_overrides, check_config, positive


def parse_init(argument: str) -> tuple[str, str, tuple[str, ...]]:
    """Split ``NAME=CONFIG[,KEY=VALUE...]`` into name, config and KEY, VALUE, ...; a VALUE ends at the next comma."""
    pairs = [part.partition("=") for part in argument.split(",")]
    if not all(name and separator for name, separator, _ in pairs) or not pairs[0][2]:
        raise argparse.ArgumentTypeError(f"expected NAME=CONFIG[,KEY=VALUE...], got {argument!r}")
    return pairs[0][0], pairs[0][2], tuple(word for key, _, value in pairs[1:] for word in (key, value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the initialisations, the seeds and the folder of the study."""
    add, count, seed = parser.add_argument, positive(int), positive(int, or_zero=True)
    add(
        "--init",
        action="append",
        required=True,
        type=parse_init,
        metavar="NAME=CONFIG[,KEY=VALUE...]",
        help="an initialisation's name, its config file and overrides that are its own, such as MODEL.WEIGHTS; "
        "give --init once for each",
    )
    add("--reference", required=True, metavar="NAME", help="the initialisation gaps are measured from")
    add("--seeds", type=count, default=5, metavar="N", help="trials of each initialisation (default: 5)")
    add("--first-seed", type=seed, default=0, metavar="S", help="seeds are S, S+1, ... (default: 0)")
    add("--jobs", type=count, default=1, metavar="N", help="trials at a time (default: 1)")
    add("--output", required=True, metavar="DIR", help="folder for the trials and the report")
    add_overrides(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse two initialisations of one name, a reference that is none of them, and configs that do not exist."""
    check_config(parser, args, {f"--init {name}": config for name, config, _ in args.init})
    names = [name for name, _, _ in args.init]
    if len(set(names)) != len(names):
        parser.error(f"--init names must differ, got {', '.join(names)}")
    if args.reference not in names:
        parser.error(f"the reference {args.reference!r} is not among the initialisations {', '.join(names)}")

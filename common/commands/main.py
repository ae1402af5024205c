"""Parse a command line, then import and call the function that implements the command."""

import os
import re
import sys
import warnings
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pkgutil import resolve_name
from types import ModuleType

from .. import tether
from ..allocator import keep_freed_memory
from ..errors import told_in_one_line
from .parser import Parser
from .table import COMMANDS, PROGRAM, Command

DESCRIPTION = """Unlabelled images in, detectors out.

  mocodet pretrain --config-file pretrain/moco_v2_R_50_200ep.yaml DATA.ROOT imagenet/train OUTPUT_DIR output/moco_v2
  mocodet convert output/moco_v2/model_final.pth output/moco_v2.pkl
  mocodet train --config-file pascal_voc_R_50_C4_24k_moco.yaml MODEL.WEIGHTS output/moco_v2.pkl OUTPUT_DIR output/voc
"""

# Prefixes of PyTorch's warnings about detectron2's code, which appear at import and in every child process.
NOT_THE_USERS = (
    "`torch.jit.script` is deprecated",
    "`torch.jit.script_method` is deprecated",
    "torch.meshgrid",
    "pkg_resources is deprecated",
)

# OpenMP reads these variables when PyTorch loads it. By default, waiting threads spin, and a second busy process on the
# same cores makes a step up to fifty times slower.
OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def main(argv: Sequence[str] | None = None) -> object:
    """Run the command given by ``argv`` (default: the command line), and return the result of its function.

    Raises:
        SystemExit: help was requested, the arguments are invalid, or the command failed.
    """
    tether.install()
    words = list(sys.argv[1:] if argv is None else argv)
    for command in COMMANDS:
        if words[:1] == [command.name]:
            args = parse(command, words[1:])
            keep_freed_memory()
            with told_in_one_line():
                return resolve_name(command.does)(args)  # imported only after the arguments are checked
    return overview().parse_args(words[:1])


def run(*leading: str) -> None:
    """Run ``leading`` followed by the command-line arguments as one command, without warnings irrelevant to users.

    OpenMP threads sleep while they wait, unless the user's environment sets a different policy.

    ``python -m mocodet``, the installed ``mocodet`` script and the scripts in ``tools/`` call this function.
    """
    for beginning in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    # For child processes. The interpreter itself escapes each message.
    inherited = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    os.environ["PYTHONWARNINGS"] = ",".join(inherited + [f"ignore:{beginning}" for beginning in NOT_THE_USERS])
    for name, value in OPENMP.items():
        os.environ.setdefault(name, value)
    main([*leading, *sys.argv[1:]])


def overview() -> ArgumentParser:
    """Create the top-level parser, which prints the list of commands and rejects unknown commands."""
    width = max(len(command.name) for command in COMMANDS)
    listed = "\n".join(f"  {command.name:{width}}  {command.help}" for command in COMMANDS)
    epilog = f"commands:\n{listed}\n\nRun '{PROGRAM} COMMAND --help' for the options of a command and for examples."
    parser = Parser(PROGRAM, description=DESCRIPTION, epilog=epilog, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[command.name for command in COMMANDS], metavar="COMMAND", help="see below")
    what = "show the versions of mocodet, torch, torchvision, detectron2 and Python, and exit"
    parser.add_argument("--version", action=_Versions, nargs=0, default=SUPPRESS, help=what)
    return parser


def parser_of(command: Command) -> Parser:
    """Create the parser of a command from the command's file in this folder."""
    file = _file_of(command)
    text = file.__doc__
    parser = Parser(
        f"{PROGRAM} {command.name}",
        description=text,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,  # otherwise, --seed would be read as --seeds
    )
    file.add_arguments(parser)
    return parser


def parse(command: Command, words: Sequence[str]) -> Namespace:
    """Parse the arguments of a command with the ``parse`` function of its file, if any, then call its ``check``.

    Raises:
        SystemExit: the arguments are invalid, or help was requested.
    """
    parser, file = parser_of(command), _file_of(command)
    args = getattr(file, "parse", ArgumentParser.parse_args)(parser, words)
    if check := getattr(file, "check", None):
        check(parser, args)
    parser.check_outputs(args)
    return args


class _Versions(Action):
    """Prints the versions and exits."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from ..versions import versions  # slow to import

        print(versions())
        parser.exit()


def _file_of(command: Command) -> ModuleType:
    return import_module(f".{command.name.replace('-', '_')}", __package__)

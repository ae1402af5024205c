"""Parse a command line, then import the module that does the work, and call it."""

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

# Beginnings of PyTorch's warnings about detectron2's code, at import and in every started process.
NOT_THE_USERS = (
    "`torch.jit.script` is deprecated",
    "`torch.jit.script_method` is deprecated",
    "torch.meshgrid",
    "pkg_resources is deprecated",
)

# OpenMP reads these when PyTorch loads it. By default threads that wait spin, and a second busy process on the same
# cores slows a step up to fifty times.
OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def main(argv: Sequence[str] | None = None) -> object:
    """Run the command that ``argv`` (default: the command line) names; return what its function returns.

    Raises:
        SystemExit: help was requested, the arguments are refused, or the command failed.
    """
    tether.install()
    words = list(sys.argv[1:] if argv is None else argv)
    for command in COMMANDS:
        if words[:1] == [command.name]:
            args = parse(command, words[1:])
            keep_freed_memory()
            with told_in_one_line():
                return resolve_name(command.does)(args)  # imported only after the arguments are accepted
    return overview().parse_args(words[:1])


def run(*leading: str) -> None:
    """Run ``leading`` and the command line's words as one command, then exit; hide warnings that do not concern users.

    OpenMP threads sleep while they wait, unless the user has set otherwise.

    ``python -m mocodet``, the installed ``mocodet`` and the files of ``tools/`` call this function.
    """
    for beginning in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    # For processes that this one starts; the interpreter escapes each message by itself.
    inherited = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    os.environ["PYTHONWARNINGS"] = ",".join(inherited + [f"ignore:{beginning}" for beginning in NOT_THE_USERS])
    for name, value in OPENMP.items():
        os.environ.setdefault(name, value)
    main([*leading, *sys.argv[1:]])


def overview() -> ArgumentParser:
    """Make the parser of command names, which prints the overview and refuses unknown names."""
    width = max(len(command.name) for command in COMMANDS)
    listed = "\n".join(f"  {command.name:{width}}  {command.help}" for command in COMMANDS)
    epilog = f"commands:\n{listed}\n\n'{PROGRAM} COMMAND --help' shows the options of a command, with examples."
    parser = Parser(PROGRAM, description=DESCRIPTION, epilog=epilog, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[command.name for command in COMMANDS], metavar="COMMAND", help="see below")
    what = "show the versions of mocodet, torch, torchvision, detectron2 and Python, and exit"
    parser.add_argument("--version", action=_Versions, nargs=0, default=SUPPRESS, help=what)
    return parser


def parser_of(command: Command) -> Parser:
    """Make the parser of a command, from its file in this folder."""
    file = _file_of(command)
    text = file.__doc__
    parser = Parser(
        f"{PROGRAM} {command.name}",
        description=text,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,  # else --seed would mean --seeds
    )
    file.add_arguments(parser)
    return parser


def parse(command: Command, words: Sequence[str]) -> Namespace:
    """Parse the arguments of a command by the ``parse`` of its file, if it has one, then call its ``check``.

    Raises:
        SystemExit: they are refused, or help was requested.
    """
    parser, file = parser_of(command), _file_of(command)
    args = getattr(file, "parse", ArgumentParser.parse_args)(parser, words)
    if check := getattr(file, "check", None):
        check(parser, args)
    parser.check_outputs(args)
    return args


class _Versions(Action):
    """Prints the versions."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        from ..versions import versions  # slow to import

        print(versions())
        parser.exit()


def _file_of(command: Command) -> ModuleType:
    return import_module(f".{command.name.replace('-', '_')}", __package__)

"""The commands as functions of their arguments, as the command line would give them."""

import argparse
from collections.abc import Sequence
from functools import partial

from mocodet.common.commands.main import main, parse
from mocodet.common.commands.table import COMMANDS


def run(name: str, arguments: Sequence[str]) -> object:
    """Run ``mocodet NAME ARGUMENTS`` in this process."""
    return main([name, *arguments])


def parsed(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command, and do nothing more."""
    return parse(next(command for command in COMMANDS if command.name == name), arguments)


(
    pretrain,
    convert,
    train,
    predict,
    export,
    evaluate,
    visualize,
    study,
    report,
    knn,
    linear,
    classify,
    shards,
    costs,
    benchmark,
    prepare_data,
) = (partial(run, command.name) for command in COMMANDS)

"""The argument parser of all commands, which reports errors in one line and suggests corrections."""

import re
from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path
from typing import NoReturn

from mocodet.common.files import writing_fault
from mocodet.common.text import did_you_mean

# Arguments that specify an output file or, if their metavar is DIR, an output folder.
OUTPUTS = ("output", "cache", "state", "export")
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")
NO_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(ArgumentParser):
    """Prints errors without the usage text, which would hide the line that describes the error."""

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr, and exit with status 2."""
        meant = ""
        if unknown := UNKNOWN_FLAG.match(message):
            meant = did_you_mean(unknown[1], [flag for action in self._actions for flag in action.option_strings])
        elif chosen := NO_CHOICE.search(message):
            meant = did_you_mean(chosen[1], chosen[2].replace("'", "").split(", "))
        told = " ".join(f"{message}{meant}".split())
        self.exit(2, f"{self.prog}: error: {told} (see {self.prog} --help)\n")

    def check_outputs(self, args: Namespace) -> None:
        """Exit with an error before any work is done if an output of the command or subcommand cannot be written."""
        for action in self._actions:
            given = getattr(args, action.dest, None)
            if isinstance(action, _SubParsersAction) and given:
                action.choices[given].check_outputs(args)
            if action.dest not in OUTPUTS or not given:
                continue
            path = Path(given)
            fault = writing_fault(path if action.metavar == "DIR" else path.parent)
            if action.metavar == "FILE" and path.is_dir():
                fault = f"{path} is a folder"
            if fault:
                name = next(iter(action.option_strings), action.dest)
                self.error(f"{name} {path}: {fault}; choose a writable path")

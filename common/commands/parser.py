"""The parser of all commands: it refuses an error in one line, and suggests the word that was meant."""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NoReturn

from mocodet.common.files import writing_fault
from mocodet.common.text import did_you_mean

# Arguments that name a file to write or, if their metavar is DIR, a folder.
OUTPUTS = ("output", "cache", "state", "export")
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")
NO_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(ArgumentParser):
    """Prints errors without the usage, which would hide the line that says what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line on stderr."""
        meant = ""
        if unknown := UNKNOWN_FLAG.match(message):
            meant = did_you_mean(unknown[1], [flag for action in self._actions for flag in action.option_strings])
        elif chosen := NO_CHOICE.search(message):
            meant = did_you_mean(chosen[1], chosen[2].replace("'", "").split(", "))
        told = " ".join(f"{message}{meant}".split())
        self.exit(2, f"{self.prog}: error: {told} ({self.prog} --help says more)\n")

    def check_outputs(self, args: Namespace) -> None:
        """Refuse outputs that cannot be written, before any work is done."""
        for action in self._actions:
            given = getattr(args, action.dest, None)
            if action.dest not in OUTPUTS or not given:
                continue
            path = Path(given)
            fault = writing_fault(path if action.metavar == "DIR" else path.parent)
            if action.metavar == "FILE" and path.is_dir():
                fault = f"{path} is a folder"
            if fault:
                name = next(iter(action.option_strings), action.dest)
                self.error(f"{name} {path}: {fault}; name a place that you can write to")

"""The parser of all commands: it refuses in one line, and suggests the word that was meant."""

import re
from argparse import ArgumentParser
from typing import NoReturn

from mocodet.common.text import did_you_mean

UNKNOWN_FLAG = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")
NO_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(ArgumentParser):
    """Prints no usage with an error, where it would hide the line that says what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line on stderr."""
        meant = ""
        if unknown := UNKNOWN_FLAG.match(message):
            meant = did_you_mean(unknown[1], [flag for action in self._actions for flag in action.option_strings])
        elif chosen := NO_CHOICE.search(message):
            meant = did_you_mean(chosen[1], chosen[2].replace("'", "").split(", "))
        told = " ".join(f"{message}{meant}".split())
        self.exit(2, f"{self.prog}: error: {told} ({self.prog} --help says more)\n")

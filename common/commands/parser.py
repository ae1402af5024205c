"""The argument parser of all commands, which reports errors in one line and suggests corrections."""

import re
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from mocodet.common.files import writing_fault
from mocodet.common.text import did_you_mean

# Arguments that specify an output file or, if their metavar is DIR, an output folder.
OUTPUTS = ("output", "cache", "state", "export")
UNKNOWN_FLAG = re.compile(r"unrecognized arguments: .*?(--[\w-]+)")
FLAG = re.compile(r"(--?[A-Za-z][\w-]*)(=.*)?", re.DOTALL)
NEVER_KEY = re.compile(r"true|false|yes|no|on|off|\d+", re.IGNORECASE)  # words that look like a value of --resume
NO_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(ArgumentParser):
    """Prints errors without the usage text, which would hide the line that describes the error."""

    words: Sequence[str] = ()  # the command line that is being parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the base class does, and keep the command line for `check_before`."""
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self.words, namespace)

    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the base class does, and keep the command line for `check_before`."""
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_intermixed_args(self.words, namespace)

    def check_before(self, rest: Sequence[str], *, intermixed: bool) -> None:
        """Exit with an error if the words before ``rest`` contain an unknown flag, or a flag's value begins ``rest``.

        Otherwise, the value of the flag would be reported as a KEY.

        Args:
            rest: the last words of the command line.
            intermixed: whether flags may follow any of ``rest``, so that all words are checked for unknown flags.
        """
        before = self.words if intermixed else self.words[: len(self.words) - len(rest)]
        flags = [word for word in takewhile(lambda word: word != "--", before) if FLAG.fullmatch(word)]
        if unknown := [flag for flag in flags if flag.partition("=")[0] not in self._option_string_actions]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        follows_flag = bool(rest and flags) and not intermixed and before[-1] == flags[-1]
        if follows_flag and NEVER_KEY.fullmatch(rest[0]) and "=" not in flags[-1]:
            self.error(f"{flags[-1]} takes no value, but is followed by {rest[0]}; remove {rest[0]}")

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

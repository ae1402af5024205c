"""The KEY VALUE pairs at the end of a command; this module imports nothing heavy."""

import re
from collections.abc import Sequence

CONFIG_KEY = re.compile(r"[A-Za-z]\w*(\.\w+)*")
SURELY_KEY = re.compile(r"(?=.*[._])[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # but not a VALUE such as BGR


def read_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``KEY, VALUE, KEY, VALUE, ...`` into pairs.

    Raises:
        ValueError: a KEY lacks its VALUE, or in place of a KEY there is a flag, ``KEY=VALUE`` or a part of a VALUE that
            the shell has split at a blank.
    """
    odd = len(words) % 2 == 1
    for place in range(0, len(words), 2):
        key, value = words[place], words[place + 1] if place + 1 < len(words) else None
        if not CONFIG_KEY.fullmatch(key):
            raise ValueError(_no_key(key, words[:place]))
        if value is None:
            raise ValueError(f"{key} has no VALUE; expected pairs of KEY VALUE at the end of the command")
        if value.startswith("--") or (odd and SURELY_KEY.fullmatch(value)):
            raise ValueError(
                f"{key} has no VALUE, but {value} follows; expected pairs of KEY VALUE at the end of the command, and"
                " flags before them"
            )
    return list(zip(words[::2], words[1::2], strict=True))


def _no_key(word: str, before: Sequence[str]) -> str:
    """Say what a word in place of a KEY is, and what to do."""
    if word.startswith("-"):
        first = f"{before[0]} {before[1]}" if before else "KEY VALUE"
        return f"{word} stands after the pairs of KEY VALUE; flags come first: {word} ... {first} ..."
    key, separator, value = word.partition("=")
    if separator and CONFIG_KEY.fullmatch(key):
        return f"{word} is written with =; expected a KEY and its VALUE apart: {key} {value or 'VALUE'}"
    after = f" after {before[-2]} {before[-1]}, and may be a part of that VALUE" if before else ""
    return f"expected a KEY such as SOLVER.BASE_LR, got {word!r}{after}; put a VALUE with blanks in quotes"

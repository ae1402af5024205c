"""Parsing of the KEY VALUE pairs at the end of a command, without expensive imports."""

import re
from collections.abc import Sequence

CONFIG_KEY = re.compile(r"[A-Za-z]\w*(\.\w+)*")
SURELY_KEY = re.compile(r"(?=.*[._])[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # but not a VALUE such as BGR


def read_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``KEY, VALUE, KEY, VALUE, ...`` into pairs.

    Raises:
        ValueError: a KEY has no VALUE, or instead of a KEY there is a flag, ``KEY=VALUE``, or part of a VALUE that the
            shell has split at a space.
    """
    odd = len(words) % 2 == 1
    for place in range(0, len(words), 2):
        key, value = words[place], words[place + 1] if place + 1 < len(words) else None
        if not CONFIG_KEY.fullmatch(key):
            raise ValueError(_no_key(key, words[:place]))
        if value is None:
            raise ValueError(f"{key} has no VALUE; expected KEY VALUE pairs at the end of the command")
        if value.startswith("--") or (odd and SURELY_KEY.fullmatch(value)):
            raise ValueError(
                f"{key} has no VALUE, but is followed by {value}; expected KEY VALUE pairs at the end of the command,"
                " after all flags"
            )
    return list(zip(words[::2], words[1::2], strict=True))


def _no_key(word: str, before: Sequence[str]) -> str:
    """Return a message about a word that is not a KEY, including what to do."""
    if word.startswith("-"):
        first = f"{before[0]} {before[1]}" if before else "KEY VALUE"
        return f"{word} must not follow the KEY VALUE pairs; put flags first: {word} ... {first} ..."
    key, separator, value = word.partition("=")
    if separator and CONFIG_KEY.fullmatch(key):
        return f"{word} contains =; separate the KEY from its VALUE with a space: {key} {value or 'VALUE'}"
    after = f" after {before[-2]} {before[-1]}, which may be part of that VALUE" if before else ""
    return f"expected a KEY such as SOLVER.BASE_LR; got {word!r}{after}; put a VALUE that contains spaces in quotes"

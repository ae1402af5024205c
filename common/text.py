"""What error messages share: wording, and finding what they name."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """Name the first ``limit`` of a list that may be long, on one line, and say how many more there are."""
    if not names:
        return "nothing"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def repeated(values: Iterable[Value]) -> list[Value]:
    """Return the values that occur more than once, each once."""
    return [value for value, count in Counter(values).items() if count > 1]


def is_text(value: str) -> bool:
    """Tell whether a text can be written at all: JSON may hold halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def on_one_line(text: str) -> str:
    """Return a text, which may hold a file name of any bytes, with escapes for what is no letter on a line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a message that suggests the word of ``known`` that was meant, if one is close."""
    meant = closest(word, known)
    return f"; did you mean {meant}?" if meant else ""


def closest(word: str, known: Collection[str]) -> str | None:
    """Return the word of ``known``, as it is or in capitals, that is closest to a mistaken one; None: none is."""
    close = get_close_matches(word, known, 1) or get_close_matches(word.upper(), known, 1)
    return close[0] if close else None

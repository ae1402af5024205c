"""Formats parts of error messages, such as lists of names and suggestions."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)


def first_few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first ``limit`` items of a list on one line, followed by the number of remaining items."""
    if not names:
        return "nothing"
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def repeated(values: Iterable[Value]) -> list[Value]:
    """Return the values that occur more than once, without repetition."""
    return [value for value, count in Counter(values).items() if count > 1]


def is_text(value: str) -> bool:
    """Return whether a text can be encoded, because JSON may contain unpaired surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def on_one_line(text: str) -> str:
    """Return a text, such as a file name of arbitrary bytes, with all non-printable characters escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a message that suggests a similar word from ``known``, or an empty string."""
    meant = closest(word, known)
    return f"; did you mean {meant}?" if meant else ""


def closest(word: str, known: Collection[str]) -> str | None:
    """Return the word from ``known`` that is most similar to ``word`` or its upper case, or None if none is similar."""
    close = get_close_matches(word, known, 1) or get_close_matches(word.upper(), known, 1)
    return close[0] if close else None

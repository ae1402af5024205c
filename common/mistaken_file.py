"""Recognises paths that are mistaken for checkpoints, such as folders and the results of failed downloads."""

import os
import re
from pathlib import Path

from .text import did_you_mean

# How the content starts, after a byte-order mark and whitespace; what it is; what to do.
MARKS = (
    (rb"version https://git-lfs", "a Git LFS pointer", "download the file itself with: git lfs pull"),
    (rb"(\.\./)*\.git/annex/|/annex/objects/", "a git-annex pointer", "download the file itself with: git annex get"),
    (
        rb"<(!doctype\s+html|html|head|body|!--)",
        "a web page",
        "open it in a browser to see why, then download the file again",
    ),
    (
        rb"<\?xml|<error>",
        "an XML document",
        "it may be an error message from the server: read it, then download the file again",
    ),
    (rb'\{\s*"', "JSON text", "it may be an error message from the server: read it, then download the file again"),
)
START = 512  # bytes


def refuse_missing(path: str | os.PathLike) -> None:
    """Raise an error if there is no file at the given path.

    Raises:
        FileNotFoundError: there is no such file; the message states what is expected or suggests a file nearby.
    """
    place = Path(path)
    if place.is_file():
        return
    if place.is_dir():
        raise FileNotFoundError(
            f"{path} is a folder; specify the checkpoint in it, such as {place / 'model_final.pth'}"
        )
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    meant = did_you_mean(str(place), [str(file) for file in beside if file.is_file()])
    raise FileNotFoundError(
        f"there is no checkpoint {path}{meant or '; specify a file such as output/moco_v2/model_final.pth'}"
    )


def mistaken_for(path: str | os.PathLike) -> str | None:
    """Describe what a file contains instead of weights, and the remedy; return None if its content is unknown."""
    with Path(path).open("rb") as handle:
        start = handle.read(START).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return f"{path} is empty, not a checkpoint; download or copy it again"
    for mark, what, remedy in MARKS:
        if re.match(mark, start, re.IGNORECASE):
            return f"{path} is {what}, not a checkpoint; {remedy}"
    return None

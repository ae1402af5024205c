"""Recognition of what is not a checkpoint: a folder, or the result of a failed download (web page, pointer)."""

import os
import re
from pathlib import Path

from .text import did_you_mean

# How the content begins, after blanks and a byte-order mark; what it is; what to do.
MARKS = (
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (rb"(\.\./)*\.git/annex/|/annex/objects/", "a git-annex pointer", "fetch the file itself: git annex get"),
    (rb"<(!doctype\s+html|html|head|body|!--)", "a web page", "open it in a browser to see why, and download it again"),
    (rb"<\?xml|<error>", "an XML document", "probably the server's refusal: read it, and download it again"),
    (rb'\{\s*"', "JSON text", "probably the server's refusal: read it, and download it again"),
)
START = 512  # bytes


def refuse_missing(path: str | os.PathLike) -> None:
    """Refuse a path at which there is no file.

    Raises:
        FileNotFoundError: the message says what to give, or suggests a file beside it.
    """
    place = Path(path)
    if place.is_file():
        return
    if place.is_dir():
        raise FileNotFoundError(f"{path} is a folder; give the checkpoint in it, such as {place / 'model_final.pth'}")
    beside = place.parent.iterdir() if place.parent.is_dir() else ()
    meant = did_you_mean(str(place), [str(file) for file in beside if file.is_file()])
    raise FileNotFoundError(
        f"there is no checkpoint {path}{meant or '; give a file such as output/moco_v2/model_final.pth'}"
    )


def mistaken_for(path: str | os.PathLike) -> str | None:
    """Say what a file is instead of weights, and what to do about it; None if nothing is known about its content."""
    with Path(path).open("rb") as handle:
        start = handle.read(START).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return f"{path} is empty, not a checkpoint; download or copy it again"
    for mark, what, remedy in MARKS:
        if re.match(mark, start, re.IGNORECASE):
            return f"{path} is {what}, not a checkpoint; {remedy}"
    return None

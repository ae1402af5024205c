"""What is in a file that should be a checkpoint and is a download's leftover: a web page, a pointer, nothing."""

import os
import re
from pathlib import Path

# How the content begins, whatever blanks and byte-order mark are before it; what that is; what to do.
MARKS = (
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (rb"(\.\./)*\.git/annex/|/annex/objects/", "a git-annex pointer", "fetch the file itself: git annex get"),
    (rb"<(!doctype\s+html|html|head|body|!--)", "a web page", "open it in a browser to see why, and download it again"),
    (rb"<\?xml|<error>", "an XML document", "the server's refusal, it seems: read it, and download it again"),
    (rb'\{\s*"', "JSON text", "the server's refusal, it seems: read it, and download it again"),
)
START = 512  # bytes


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

"""Recognises paths that are mistaken for checkpoints, such as folders and the results of failed downloads."""

import json
import os
import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from .text import did_you_mean

DOWNLOAD_AGAIN = "download the file again"
MAY_BE_AN_ERROR = f"it may be an error message from the server: read it, then {DOWNLOAD_AGAIN}"
UNPACK = "unpack it and specify the checkpoint in it"

# How the text starts, after a byte-order mark and whitespace; what it is; what to do.
MARKS = (
    (r"version https://git-lfs", "a Git LFS pointer", "download the file itself with: git lfs pull"),
    (r"(\.\./)*\.git/annex/|/annex/objects/", "a git-annex pointer", "download the file itself with: git annex get"),
    (r"([^\n]*\n)*?outs:\s*\n\s*- \w+:", "a DVC pointer", "download the file itself with: dvc pull"),
    (
        r"<(!doctype\s+html|html|head|body|title|script|style|meta|link|!--)",
        "a web page",
        f"open it in a browser to see why, then {DOWNLOAD_AGAIN}",
    ),
    (r"<svg", "an SVG image", "specify the checkpoint itself"),
    (r"<\?xml|<error>", "an XML document", MAY_BE_AN_ERROR),
    (r'\{\s*["}]|\[\s*(["{[\]]|-?\d+[.,])', "JSON text", MAY_BE_AN_ERROR),
)
# How pickles of a dict, a list or a named object start in pickle's text protocol, which must not be reported as text.
PICKLED_TEXT = re.compile(r"\([dl]p\d+\n|c[\w.]+\n\w+\n")
# The parts of a checkpoint that torch.save wrote before its pickles and zip archives.
PARTS_OF_TORCH_TAR = {"sys_info", "pickle", "tensors", "storages"}
START = 512  # bytes
LONGEST_QUOTE = 60  # characters


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
    """Describe what a file contains instead of weights, and the remedy; return None if its content is unknown.

    Call this only for a file that cannot be loaded: a checkpoint may also be a zip or tar archive.
    """
    place = Path(path)
    with place.open("rb") as handle:
        start = handle.read(START)
    fault = _binary_fault(place, start) or _text_fault(start)
    return f"{path} {fault}" if fault else None


def _binary_fault(path: Path, start: bytes) -> str | None:
    if start and not start.strip(b"\0"):
        return f"begins with {len(start)} zero bytes, like an incomplete download; download it again"
    if start.startswith(b"PK\x03\x04"):
        return _zip_fault(path)
    if start[257:262] == b"ustar":
        return _tar_fault(path)
    if start.startswith(b"\x1f\x8b"):
        return _instead("a gzip file", UNPACK)
    return None


def _zip_fault(path: Path) -> str | None:
    try:
        if not zipfile.is_zipfile(path):
            missing = "the end of its zip archive is missing"
            return f"cannot be read as a checkpoint because it is truncated ({missing}); download or copy it again"
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged bytes can raise almost any exception
        return None
    if any(PurePosixPath(name).name == "constants.pkl" for name in names):
        return _instead("a TorchScript archive", "specify a file with the model's state_dict(), written by torch.save")
    return None


def _tar_fault(path: Path) -> str:
    try:
        with tarfile.open(path, "r:") as archive:
            first = archive.next()
    except Exception:  # as in a zip archive
        first = None
    if first and first.name in PARTS_OF_TORCH_TAR:
        return "is in torch's legacy tar format, which cannot be loaded safely; specify a file in a newer format"
    return _instead("a tar archive", UNPACK)


def _text_fault(start: bytes) -> str | None:
    text = start.decode(json.detect_encoding(start), "replace").lstrip()
    if not text:
        return "is empty, not a checkpoint; download or copy it again"
    for mark, what, remedy in MARKS:
        if re.match(mark, text, re.IGNORECASE):
            return _instead(what, remedy)
    return _instead(f"text ({_first_line(text)!r})", DOWNLOAD_AGAIN) if _is_plain_text(text) else None


def _is_plain_text(text: str) -> bool:
    whole = text.removesuffix("\ufffd")  # the last character may have been cut in two
    if not whole or PICKLED_TEXT.match(whole):
        return False
    return all(letter in "\t\n\r\f" or (letter.isprintable() and letter != "\ufffd") for letter in whole)


def _first_line(text: str) -> str:
    line = text.splitlines()[0].rstrip()
    return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}..."


def _instead(what: str, remedy: str) -> str:
    return f"is {what}, not a checkpoint; {remedy}"

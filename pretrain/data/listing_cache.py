"""Listings of large folders, kept from run to run: only the folders are looked at again, not the files in them.

A listing holds as long as each folder is the one that it was, and no entry of it has come, gone or been renamed: all of
these change a folder's time. A link that leads to a file is taken to lead to one in the future; where a link leads
nowhere, nothing is kept.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from mocodet.common.cache_folder import cache_folder
from mocodet.common.files import atomic_open
from mocodet.common.formats.image import image_suffixes
from mocodet.common.locks import exclusive

from .listing import Listing, search, stamp_of

# To be raised with every change of what a file holds, or of which files are listed.
FORMAT = 1

# Folders with fewer files are searched as quickly as a listing is read.
SMALLEST = 10_000

# A folder that has changed within so many nanoseconds before it was searched may change again without a change of its
# time: file systems count in steps, of two seconds at most.
STEP = 2_000_000_000


def list_images(root: str | os.PathLike) -> list[Listing]:
    """List a folder as `.listing.search` does, or as it was listed before if nothing has changed since.

    Of the processes that list a large folder for the first time, one searches it, and the others wait for the result.
    Where the cache cannot be read or written, all is searched.

    Raises:
        OSError: a folder cannot be searched.
    """
    file = cache_folder() / "listings" / f"{hashlib.sha256(os.fsencode(Path(root).absolute())).hexdigest()[:32]}.json"
    if (kept := _read(file, root)) is not None:
        return kept
    started = time.time_ns()
    folders = search(root)
    found, files = [], 0
    for listing in folders:
        found.append(listing)
        files += len(listing.images) + listing.others
        if files >= SMALLEST:
            break
    else:
        return found
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(exclusive(file))
        if (kept := _read(file, root)) is not None:  # another process has searched while this one waited
            return kept
        found += folders
        settled = max(moment for listing in found for moment in listing.stamp[2:]) < started - STEP
        if settled and all(listing.lasting for listing in found):
            with suppress(OSError):
                _write(file, found)
    return found


def _write(file: Path, found: Iterable[Listing]) -> None:
    """Write JSON, after a line with its checksum; names are joined by what no name has."""
    folders = [(one.folder, one.stamp, "/".join(one.images), one.others) for one in found]
    content = json.dumps({"format": FORMAT, "extensions": image_suffixes(), "folders": folders}).encode()
    with atomic_open(file) as handle:
        handle.write(b"%08x\n" % zlib.crc32(content))
        handle.write(content)


def _read(file: Path, root: str | os.PathLike) -> list[Listing] | None:
    """Return what is kept of ``root``; None if there is nothing, if it is damaged, or if a folder has changed."""
    try:
        checksum, _, content = file.read_bytes().partition(b"\n")
        if int(checksum, 16) != zlib.crc32(content):
            return None
        kept = json.loads(content)
        if (kept["format"], kept["extensions"]) != (FORMAT, list(image_suffixes())):
            return None
        found = [
            Listing(folder, tuple(stamp), images.split("/") if images else [], others)
            for folder, stamp, images, others in kept["folders"]
        ]
        holds = all(stamp_of(Path(root, listing.folder)) == listing.stamp for listing in found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if holds else None

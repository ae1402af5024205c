"""Listings of large folders, cached between runs: later runs check the folders, but not the files in them.

A listing is valid as long as each folder is the same and no entry was added, removed or renamed, because each of these
changes the modification time of the folder. A link to a file is assumed to remain one, and a listing with a dangling
link is not cached.
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

# Increase this version whenever the file format or the selection of files changes.
FORMAT = 1

# Searching folders with fewer files is as fast as reading a cached listing.
SMALLEST = 10_000

# Nanoseconds. A folder that changed within this time before the search might change again without a new time stamp,
# because file systems store times in steps of up to two seconds.
STEP = 2_000_000_000


def list_images(root: str | os.PathLike) -> list[Listing]:
    """List a folder like `.listing.search`, or return the cached listing if nothing has changed since it was saved.

    When multiple processes list a large folder for the first time, one of them searches it, and the others wait for the
    result. If the cache cannot be read or written, the folder is searched.

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
        if (kept := _read(file, root)) is not None:  # another process searched the folder while this one waited
            return kept
        found += folders
        settled = max(moment for listing in found for moment in listing.stamp[2:]) < started - STEP
        if settled and all(listing.lasting for listing in found):
            with suppress(OSError):
                _write(file, found)
    return found


def _write(file: Path, found: Iterable[Listing]) -> None:
    """Write a line with a checksum, followed by JSON. Names are joined with a character that no name can contain."""
    folders = [(one.folder, one.stamp, "/".join(one.images), one.others) for one in found]
    content = json.dumps({"format": FORMAT, "extensions": image_suffixes(), "folders": folders}).encode()
    with atomic_open(file) as handle:
        handle.write(b"%08x\n" % zlib.crc32(content))
        handle.write(content)


def _read(file: Path, root: str | os.PathLike) -> list[Listing] | None:
    """Return the cached listing of ``root``, or None if it is missing or damaged, or if a folder has changed."""
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

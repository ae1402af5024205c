"""A cache of files by their whole address, compared with the server's at each use."""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from . import download as downloads
from .cache_folder import cache_folder
from .download import DownloadError, download, one_line, origin_of
from .files import read_json
from .locks import exclusive

logger = logging.getLogger(__name__)

ORIGIN = ".origin.json"  # suffix of the record of the server's answer, after the file's name
LONGEST_NAME = 100  # characters of a file's name


def fetch(url: str) -> Path:
    """Return the file at an address; download it unless the copy is the server's current file.

    The copy is compared with the server's file by ETag, else by date and size, else by size, and the result is logged.
    If the server cannot be asked, the copy is used, with a warning.

    Args:
        url: begins with ``http://`` or ``https://``.

    Returns:
        ``<cache_folder()>/urls/<digest of the address>/<name>``.

    Raises:
        ValueError: ``url`` is not such an address.
        DownloadError: there is no copy, or an outdated one, and the file cannot be downloaded.
        OSError: the cache cannot be written.
    """
    path = kept_at(url)
    record = path.with_name(path.name + ORIGIN)
    with exclusive(path.parent):
        known = _known(path, record)
        if known is None:
            logger.info(f"Downloading {url} to {path}")
        else:
            try:
                changed, why = _compare(url, known)
            except DownloadError as error:
                logger.warning(f"{error}; using the copy in {path}, which may be older than the server's")
                return path
            if not changed:
                logger.info(f"{url}: the copy in {path} is the server's ({why})")
                return path
            logger.warning(f"{url} has changed on its server ({why}); downloading it again to {path}")
        return download(url, path, replace=True, origin=record)


def kept_at(url: str) -> Path:
    """Return the path of the copy for an address, whether or not it exists."""
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rpartition("/")[2])[-LONGEST_NAME:] or "file"
    return cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:20] / name


def _known(path: Path, record: Path) -> dict[str, Any] | None:
    """Return the server's record of the copy; for one placed there manually, its size; None without a copy."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    try:
        known = read_json(record)
        if known["total"] in (None, size):
            return {"etag": known["etag"], "date": known["date"], "total": size}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return {"etag": None, "date": None, "total": size}


def _compare(url: str, known: dict[str, Any]) -> tuple[bool, str]:
    """Ask the server whether its file is the ``known`` one, without reading the content.

    Returns:
        whether the server's file is another one, and what shows it.

    Raises:
        DownloadError: the server cannot be reached, gives another answer, or nothing to compare by.
    """
    headers = {
        "User-Agent": "mocodet",
        "Accept-Encoding": "identity",
        "If-None-Match": known["etag"],
        "If-Modified-Since": known["date"],
    }
    try:
        with requests.get(url, headers=headers, stream=True, timeout=downloads.TIMEOUT) as response:
            status, now = response.status_code, origin_of(url, response)
            answer = one_line(f"{status} {response.reason}")
    except (requests.RequestException, ValueError) as error:  # ValueError: a bad address
        raise DownloadError(f"{url} cannot be compared with its server ({one_line(error)})") from error
    if status == 304:
        return False, "304 Not Modified"
    if status != 200:
        raise DownloadError(f"{url} cannot be compared with its server, which answered {answer}")
    by = next((key for key in ("etag", "date") if known[key] and now[key]), "total")
    keys = ["date", "total"] if by == "date" else [by]
    said = [key for key in keys if now[key] is not None]
    if not said:
        raise DownloadError(f"{url} cannot be compared with its server, which gives neither ETag, date nor size")
    names = {"etag": "ETag", "date": "date", "total": "size"}
    if different := [key for key in said if now[key] != known[key]]:
        return True, ", ".join(f"{names[key]} {known[key]} before, {now[key]} now" for key in different)
    return False, f"the same {' and '.join(names[key] for key in said)}"

"""Caches files under their full URL, and compares them with the server's files at each use."""

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

ORIGIN = ".origin.json"  # suffix, after the file name, of the record of the server's response
LONGEST_NAME = 100  # maximum number of characters of a file name


def fetch(url: str) -> Path:
    """Return a cached copy of the file at a URL, and download the file unless the copy matches the server's file.

    The copy is compared with the server's file by ETag or, if there is none, by date and size or by size only, and the
    result is logged. If the server cannot be reached, the copy is used and a warning is logged.

    Args:
        url: a URL that starts with ``http://`` or ``https://``.

    Returns:
        ``<cache_folder()>/urls/<digest of the URL>/<name>``.

    Raises:
        ValueError: ``url`` is not such a URL.
        DownloadError: the copy is missing or outdated, and the file cannot be downloaded.
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
                logger.warning(f"{error}; using the cached copy {path}, which may be outdated")
                return path
            if not changed:
                logger.info(f"{url}: the cached copy {path} matches the server's file ({why})")
                return path
            logger.warning(f"{url} has changed on its server ({why}); downloading it again to {path}")
        return download(url, path, replace=True, origin=record)


def kept_at(url: str) -> Path:
    """Return the path of the cached copy for a URL, whether or not the copy exists."""
    name = re.sub(r"[^\w.+-]", "_", urlsplit(url).path.rpartition("/")[2])[-LONGEST_NAME:] or "file"
    return cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:20] / name


def _known(path: Path, record: Path) -> dict[str, Any] | None:
    """Return the server's record of the copy, only the size of a manually placed copy, or None without a copy."""
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
    """Compare the server's file with the ``known`` one, without reading the content.

    Returns:
        whether the server's file is a different one, and which value shows this.

    Raises:
        DownloadError: the server cannot be reached, sends another response, or provides no value to compare.
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
    except (requests.RequestException, ValueError) as error:  # ValueError: an invalid URL
        raise DownloadError(f"{url} could not be checked for changes ({one_line(error)})") from error
    if status == 304:
        return False, "304 Not Modified"
    if status != 200:
        raise DownloadError(f"{url} could not be checked for changes, because the server answered {answer}")
    by = next((key for key in ("etag", "date") if known[key] and now[key]), "total")
    keys = ["date", "total"] if by == "date" else [by]
    said = [key for key in keys if now[key] is not None]
    if not said:
        raise DownloadError(f"{url} could not be checked for changes, because the server sent no ETag, date or size")
    names = {"etag": "ETag", "date": "date", "total": "size"}
    if different := [key for key in said if now[key] != known[key]]:
        return True, ", ".join(f"{names[key]} {known[key]} before, {now[key]} now" for key in different)
    return False, f"the same {' and '.join(names[key] for key in said)}"

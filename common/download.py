"""Downloads files so that they are either complete or absent, and resumes interrupted transfers."""

import hashlib
import json
import os
import re
import time
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from .files import write_json
from .locks import exclusive

ATTEMPTS = 5  # per call; each resumes where the previous one stopped
FIRST_PAUSE = 1.0  # seconds before the second attempt; doubled for each later attempt
TIMEOUT = 30.0  # seconds without a byte from the server
CHUNK = 1 << 20  # bytes

# Status codes of a server that is busy or temporarily unavailable (RFC 9110 section 15, RFC 6585 section 4).
PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class DownloadError(OSError):
    """Raised when a file cannot be downloaded. The message names the file, the cause and the remedy."""


def download(
    url: str,
    path: str | os.PathLike,
    *,
    md5: str | None = None,
    size: int | None = None,
    label: str | None = None,
    replace: bool = False,
    origin: Path | None = None,
) -> Path:
    """Download ``url`` to ``path``, which appears only after the complete file has arrived and passed its checks.

    The bytes received so far are stored in ``<path>.part``, and a description of the complete file is stored in
    ``<path>.part.json``. A later attempt, in this call or another, requests only the missing bytes. The
    download starts from the beginning if the file has changed on the server, or if the server sends only complete
    files. If multiple processes request the same ``path``, one of them downloads the file and the others wait. An
    existing file at ``path`` is checked and kept without a request, unless ``replace`` is set.

    Args:
        url: an ``http://`` or ``https://`` URL. `requests` reads proxies and certificates from the environment.
        path: the file to write. Missing parent folders are created.
        md5: the hexadecimal MD5 sum of the file, either all 32 digits or the first few.
        size: the expected size of the file in bytes.
        label: the name shown in the progress bar if stderr is a terminal; by default, the name of the file.
        replace: replace an existing file once the new one has arrived.
        origin: a JSON file to which the `origin_of` of the download is written.

    Returns:
        ``path``.

    Raises:
        ValueError: ``url`` or ``md5`` is invalid.
        DownloadError: the server cannot be reached or rejects the request, the transfer was interrupted, or the file is
            not the expected one.
        OSError: the file cannot be written.
    """
    if not re.fullmatch(r"https?://[\x21-\x7e]+", url):
        raise ValueError(f"{url!r}: expected a URL that starts with http:// or https:// and contains no spaces")
    if md5 is not None and not re.fullmatch(r"[0-9a-fA-F]{1,32}", md5):
        raise ValueError(f"md5 {md5!r}: expected at most 32 hexadecimal digits")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so {url} cannot be saved as this file; choose another path")
    if not replace and _is_there(path, md5, size):
        return path
    with exclusive(path):
        if not replace and _is_there(path, md5, size):  # downloaded by another process in the meantime
            return path
        part = _Part(path, url)
        _fetch(part, size, label or path.name, verified=md5 is not None or size is not None)
        if fault := file_fault(part.path, md5, size):
            part.discard()
            raise DownloadError(f"{url}: {fault}. The download was discarded; run this again, or use another source")
        with part.path.open("rb+") as handle:
            os.fsync(handle.fileno())
        if origin is not None:
            origin.unlink(missing_ok=True)  # it must never describe a different file
        part.path.replace(path)
        part.record.replace(origin) if origin is not None else part.record.unlink(missing_ok=True)
    return path


def md5_of(path: str | os.PathLike) -> str:
    """Return the MD5 sum of a file as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_there(path: Path, md5: str | None, size: int | None) -> bool:
    if not path.is_file():
        return False
    if fault := file_fault(path, md5, size):
        raise DownloadError(f"{path} exists, but {fault}. Delete it to download it again")
    return True


def file_fault(path: Path, md5: str | None, size: int | None) -> str | None:
    """Describe how a complete file differs from ``md5`` or ``size`` (see `download`); return None if it matches."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if md5 is not None and not (digest := md5_of(path)).startswith(md5.lower()):
        return f"its MD5 sum is {digest}, expected {md5.lower()}{'…' if len(md5) < 32 else ''}"
    return None


class _Part:
    """The bytes of the file ``whole`` received so far from ``url``, with a description of that file."""

    def __init__(self, whole: Path, url: str) -> None:
        self.url = url
        self.path = whole.with_name(whole.name + ".part")
        self.record = whole.with_name(whole.name + ".part.json")
        self.by_hand = f"download {url} in another way and save it as {whole}"

    def size(self) -> int:
        """Return the number of bytes received so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> dict[str, Any]:
        """Return the `origin_of` of these bytes, or an empty dict if a download from this URL cannot continue them."""
        try:
            origin = json.loads(self.record.read_text(encoding="utf-8"))
            return origin if origin["url"] == self.url and self.size() else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}

    def begin(self, origin: dict[str, Any]) -> None:
        """Discard the received bytes and record the origin of a new download."""
        self.discard()
        write_json(self.record, origin)

    def discard(self) -> None:
        """Delete the received bytes and their description."""
        self.path.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


def _fetch(part: _Part, size: int | None, label: str, verified: bool) -> None:
    """Download all bytes into ``part``, retrying if necessary; ``verified`` states whether the caller checks them.

    urllib3's ``Retry`` would repeat the same request, whereas each attempt here requests only the missing bytes.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        try:
            return _attempt(part, size, label, verified)
        except (requests.HTTPError, requests.TooManyRedirects) as error:
            answer: Any = error.response
            in_a_loop = " in a redirect loop" if isinstance(error, requests.TooManyRedirects) else ""
            reason = f"the server answered {one_line(f'{answer.status_code} {answer.reason}')}{in_a_loop}"
            if answer.status_code not in PASSING_STATUS:
                advice = "; check the URL, or" if answer.status_code >= 300 else ", which contains no file;"
                raise DownloadError(f"{part.url}: {reason}{advice} {part.by_hand}") from error
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            reason = f"the transfer was interrupted ({one_line(error)})"
            if any(isinstance(cause, MaxRetryError) for cause in error.args):  # while connecting
                reason = f"{urlsplit(part.url).netloc} cannot be reached ({one_line(error)})"
                if not attempt:  # the machine is probably offline, so further attempts would fail too
                    raise DownloadError(f"{reason}; check the connection, or {part.by_hand}") from error
        except (requests.RequestException, ValueError) as error:  # an invalid URL, perhaps from a redirect
            raise DownloadError(f"{part.url}: {one_line(error)}; check the URL, or {part.by_hand}") from error
    raise DownloadError(
        f"{part.url}: {reason} in the last of {ATTEMPTS} attempts. {part.size()} bytes are kept; run the command again"
        f" to resume, or {part.by_hand}"
    )


def one_line(words: object) -> str:
    """Shorten a text from the server or the system, which may be long, to one line.

    For an error that wraps others, use the innermost one, because requests wraps urllib3's errors, which in turn wrap
    the system's errors.
    """
    while isinstance(words, BaseException):
        wrapped = [each for each in (words.__cause__, *words.args) if isinstance(each, BaseException)]
        words = wrapped[0] if wrapped else str(words) or type(words).__name__
    return shorten(str(words), 200, placeholder="…")


def _attempt(part: _Part, size: int | None, label: str, verified: bool) -> None:
    """Request the missing bytes and append them to the file.

    Raises:
        requests.RequestException: the connection failed or, as an HTTPError, the server rejected the request.
        urllib3.exceptions.HTTPError: the transfer was incomplete.
        DownloadError: the server's file has another size or is sent compressed, or the disk is full.
    """
    known = part.origin()
    offset = part.size() if known else 0
    if known and offset == known.get("total"):  # complete, but the process ended before the rename
        return
    # "identity" requests uncompressed bytes, which Content-Length counts.
    headers: dict[str, Any] = {"User-Agent": "mocodet", "Accept-Encoding": "identity"}
    if known:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known.get("validator")}  # requests omits a None
    # Follow redirects on a new connection, because some servers close the old one without notice.
    hooks = {"response": lambda response, **_: response.connection.close()}
    with requests.get(part.url, headers=headers, hooks=hooks, stream=True, timeout=TIMEOUT) as response:
        status, origin = response.status_code, origin_of(part.url, response)
        # A partial response has an ETag if the full one had it, but may omit Last-Modified (RFC 9110 section 15.3.7).
        # If the server ignored If-Range, the response belongs to a different file or to different bytes.
        same = origin["total"] == known.get("total") and origin["validator"] in (None, known.get("validator"))
        goes_on = known and same and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        # 416: the file on the server is shorter than the bytes received so far.
        if (status == 206 and not goes_on) or (status == 416 and known):
            part.discard()
            raise ProtocolError("the file has changed on the server")
        if status not in (200, 206):
            raise requests.HTTPError(response=response)
        # Some servers label an unchanged .tgz as gzip-encoded. If the caller verifies the bytes, that check decides.
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity" and not verified:
            raise DownloadError(
                f"{part.url}: the server sends the file compressed (Content-Encoding: {one_line(encoding)}), although"
                f" uncompressed bytes were requested; {part.by_hand}"
            )
        if size is not None and origin["total"] not in (None, size):
            part.discard()
            raise DownloadError(f"{part.url} has {origin['total']} bytes, expected {size}; use another source")
        if status == 200:
            part.begin(origin)
        _append(response, part, label, origin["total"])
    if origin["total"] not in (None, part.size()):
        raise ProtocolError(f"{part.size()} of {origin['total']} bytes arrived")


def origin_of(url: str, response: requests.Response) -> dict[str, Any]:
    """Describe the file in a response.

    In the returned dict, ``validator`` is the strong ETag of the file, or its Last-Modified date if it has no strong
    ETag (RFC 9110 section 13.1.5). ``total`` is the size of the complete file in bytes, ``etag`` is its strong or weak
    ETag, and ``date`` is its Last-Modified date. Each of these values is None if the server does not provide it.
    """
    etag = response.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    total = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return {
        "url": url,
        "validator": strong or response.headers.get("Last-Modified"),
        "total": int(total) if total.isdecimal() else None,
        "etag": etag,
        "date": response.headers.get("Last-Modified"),
    }


def _append(response: requests.Response, part: _Part, label: str, total: int | None) -> None:
    response.raw.enforce_content_length = False  # `_attempt` checks the total
    # disable=None shows the bar only if stderr is a terminal.
    bar = tqdm(None, label, total, initial=part.size(), unit="B", unit_scale=True, unit_divisor=1024, disable=None)
    try:
        with bar, part.path.open("ab") as handle:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                bar.update(handle.write(chunk))
    except OSError as error:  # network errors have other types here
        raise DownloadError(f"{part.path} cannot be written ({error}); the bytes received so far are kept") from error

"""Files from the web that arrive whole or not at all, and go on where a transfer broke off."""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from .files import atomic_open
from .locks import exclusive

ATTEMPTS = 5  # in one call; each goes on where the one before broke off
FIRST_PAUSE = 1.0  # seconds before the second attempt; doubles with each further one
TIMEOUT = 30.0  # seconds without a byte from the server
CHUNK = 1 << 20  # bytes
LONGEST_REASON = 200  # characters

# disable=None: quiet where stderr is no terminal.
BAR = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}

# Answers of a server that is busy or broken for the moment (RFC 9110 section 15, RFC 6585 section 4).
PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
NETWORK_ERRORS = (OSError, http.client.HTTPException)


class DownloadError(OSError):
    """A file could not be downloaded; the message says which, why, and what to do."""


class _BrokenTransferError(Exception):
    """The server did not send all, now; another attempt may go on from there."""


def download(
    url: str,
    path: str | os.PathLike,
    *,
    md5: str | None = None,
    size: int | None = None,
    label: str | None = None,
) -> Path:
    """Download ``url`` to ``path``, which appears only when all of it has arrived and is what was expected.

    What has arrived so far lies in ``<path>.part``, and in ``<path>.part.json`` what it is a part of. A later attempt,
    of this call or of a later one, asks for the rest only; where the file has changed on the server since, or the
    server sends whole files only, it starts again. Processes that want the same ``path`` at once wait for one of them.
    A file that is at ``path`` already is checked and kept, without asking the server.

    Args:
        url: begins with ``http://`` or ``https://``; proxies are taken from the environment.
        path: the file to write; parent folders are made.
        md5: hexadecimal digits of the MD5 sum, all 32 or the first of them.
        size: bytes that the file must have.
        label: what the progress bar (on a terminal's stderr) calls the file; default its name.

    Returns:
        ``path``.

    Raises:
        ValueError: ``url`` or ``md5`` is none.
        DownloadError: the server cannot be reached or refuses, the transfer broke off, or the file is another one.
        OSError: the file cannot be written.
    """
    if not re.fullmatch(r"https?://[\x21-\x7e]+", url):
        raise ValueError(f"{url!r}: expected an address that begins with http:// or https:// and is free of blanks")
    if md5 is not None and not re.fullmatch(r"[0-9a-fA-F]{1,32}", md5):
        raise ValueError(f"md5 {md5!r}: expected hexadecimal digits, at most 32")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; the file {url} was to be written there")
    if _is_there(path, md5, size):
        return path
    with exclusive(path):
        if _is_there(path, md5, size):  # another process has brought it while this one waited
            return path
        part = _Part(path, url)
        _fetch(part, size, label or path.name, verified=md5 is not None or size is not None)
        if fault := _fault(part.path, md5, size):
            part.discard()
            raise DownloadError(f"{url}: {fault}. Nothing was kept; run this again, or name another source")
        part.become_whole()
    return path


def md5_of(path: str | os.PathLike) -> str:
    """Return the MD5 sum of a file, 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_there(path: Path, md5: str | None, size: int | None) -> bool:
    if not path.is_file():
        return False
    if fault := _fault(path, md5, size):
        raise DownloadError(f"{path} is there, but {fault}. Delete it to have it downloaded again")
    return True


def _fault(path: Path, md5: str | None, size: int | None) -> str | None:
    """Tell what is wrong with the bytes of a complete file, if anything is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if md5 is not None and not (digest := md5_of(path)).startswith(md5.lower()):
        return f"its MD5 sum is {digest}, expected {md5.lower()}{'…' if len(md5) < 32 else ''}"
    return None


class _Origin(NamedTuple):
    """Which file a part is the beginning of.

    Attributes:
        url: where it came from.
        validator: its strong ETag, else its Last-Modified, else None (RFC 9110 section 13.1.5).
        total: bytes of the whole file, where the server says so.
    """

    url: str
    validator: str | None
    total: int | None


class _Part:
    """The beginning of the file ``whole`` from ``url``, with a record of which file it is the beginning of."""

    def __init__(self, whole: Path, url: str) -> None:
        self.url = url
        self.path = whole.with_name(whole.name + ".part")
        self.by_hand = f"fetch {url} in another way and put the file at {whole}"
        self._whole = whole
        self._record = whole.with_name(whole.name + ".part.json")

    def size(self) -> int:
        """Return how many bytes have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> _Origin | None:
        """Return what the part is a part of; None when nothing from this address can go on from it."""
        try:
            origin = _Origin(**json.loads(self._record.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return origin if self.size() and origin.url == self.url else None

    def begin(self, origin: _Origin) -> None:
        """Start anew with no bytes."""
        self.discard()
        with atomic_open(self._record, "w", encoding="utf-8") as handle:
            json.dump(origin._asdict(), handle)

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def become_whole(self) -> None:
        """Flush the bytes to disk and give them the name of the whole file."""
        with self.path.open("rb+") as handle:
            os.fsync(handle.fileno())
        self.path.replace(self._whole)
        self._record.unlink(missing_ok=True)


def _fetch(part: _Part, size: int | None, label: str, verified: bool) -> None:
    """Bring all bytes into ``part``, in several attempts where it must be; ``verified``: they are compared then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(part, size, label, verified)
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {_one_line(error.reason)}"
            if error.code not in PASSING_STATUS:
                raise DownloadError(f"{part.url}: {reason}; check the address, or {part.by_hand}") from error
        except urllib.error.URLError as error:
            reason = f"{urlsplit(part.url).netloc} cannot be reached ({_one_line(error.reason)})"
            if attempt == 1:  # rather offline than unlucky
                raise DownloadError(f"{reason}; check the connection, or {part.by_hand}") from error
        except _BrokenTransferError as error:
            reason = f"the transfer broke off ({error})"
        if attempt < ATTEMPTS:
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    raise DownloadError(
        f"{part.url}: {reason}, in the last of {ATTEMPTS} attempts; {part.size()} bytes are kept: run this again to go"
        f" on from there, or {part.by_hand}"
    )


def _one_line(words: object) -> str:
    """Write what the server or the system says, which may be pages of whatever, on one line of bearable length."""
    line = " ".join(str(words).split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def _attempt(part: _Part, size: int | None, label: str, verified: bool) -> None:
    """Ask for what is missing, and append it.

    Raises:
        urllib.error.URLError: no connection; as HTTPError: the server refused.
        _BrokenTransferError: not all came.
        DownloadError: the server has a file of another size or no file, or the disk takes no more.
    """
    known = part.origin()
    offset = part.size() if known else 0
    if known and offset == known.total:  # all had come, but the process was ended then
        return
    with _answer(part, offset, known) as response:
        _check_is_file(response, part, verified)
        origin = _origin(part.url, response)
        # A partial answer carries an ETag where the whole one did, but may leave out Last-Modified (RFC 9110 section
        # 15.3.7). It is of another file or of other bytes where If-Range was not heeded.
        same = known and origin.total == known.total and origin.validator in (None, known.validator)
        if response.status != 206:
            offset = 0
            part.begin(origin)
        elif not same or not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.discard()
            raise _BrokenTransferError("the file has changed on the server")
        if size is not None and origin.total not in (None, size):
            part.discard()
            raise DownloadError(f"{part.url} has {origin.total} bytes, expected {size}; name another source")
        _append(response, part, tqdm(desc=label, initial=offset, total=origin.total, **BAR))
    if origin.total is not None and part.size() != origin.total:
        raise _BrokenTransferError(f"{part.size()} of {origin.total} bytes came")


def _answer(part: _Part, offset: int, known: _Origin | None) -> http.client.HTTPResponse:
    """Ask for the bytes from ``offset`` on of the file that ``known`` describes, or for all of what is there now."""
    # "identity": the bytes as they are, which Content-Length counts.
    request = urllib.request.Request(part.url, headers={"User-Agent": "mocodet", "Accept-Encoding": "identity"})
    if known:
        request.add_header("Range", f"bytes={offset}-")
        if known.validator:
            request.add_header("If-Range", known.validator)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.URLError as error:
        if known and getattr(error, "code", None) == 416:  # the file on the server ends before the part does
            part.discard()
            raise _BrokenTransferError("the file has changed on the server") from error
        raise
    except NETWORK_ERRORS as error:
        raise _BrokenTransferError(_one_line(error) or type(error).__name__) from error


def _check_is_file(response: http.client.HTTPResponse, part: _Part, verified: bool) -> None:
    """Raise ``DownloadError`` for an answer that is not the file as it is.

    Servers announce a ``.tgz`` that they send as it is as gzip-encoded, too; so where the bytes are ``verified``
    anyway, that decides.
    """
    if response.status not in (200, 206):
        answer = f"{response.status} {_one_line(response.reason)}"
        raise DownloadError(f"{part.url}: the server answered {answer}, which brings no file; {part.by_hand}")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity" and not verified:
        raise DownloadError(
            f"{part.url}: the server sends it packed (Content-Encoding: {_one_line(encoding)}), though it was asked for"
            f" the file as it is; {part.by_hand}"
        )


def _origin(url: str, response: http.client.HTTPResponse) -> _Origin:
    etag = response.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    if response.status == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return _Origin(url, strong or response.headers.get("Last-Modified"), int(total) if total.isdigit() else None)


def _append(response: http.client.HTTPResponse, part: _Part, bar: tqdm) -> None:
    try:
        with bar, part.path.open("ab") as handle:
            while True:
                try:
                    chunk = response.read(CHUNK)
                except NETWORK_ERRORS as error:
                    raise _BrokenTransferError(_one_line(error) or type(error).__name__) from error
                if not chunk:
                    return
                handle.write(chunk)
                bar.update(len(chunk))
    except OSError as error:  # the network's errors do not come as such here
        raise DownloadError(f"{part.path} cannot be written ({error}); what has arrived is kept") from error

"""A file on a web server, read from beginning to end across interruptions of the connection."""

import io
import logging
import time
from typing import Any

import requests
from urllib3.exceptions import HTTPError, ProtocolError

from mocodet.common import download
from mocodet.common.download import PASSING_STATUS, one_line, origin_of

from .retrying import LastingError, delays

logger = logging.getLogger("mocodet.pretrain")

CHUNK = 1 << 16  # bytes skipped at a time


class WebFile(io.RawIOBase):
    """The bytes at an http or https address; opened by the first read.

    If a transfer breaks off, stalls for `download.TIMEOUT` seconds or ends early, or the server is busy, another
    attempt follows after a delay, from the byte where it stopped. If the server only sends whole files, the bytes
    before are read again and skipped. Proxies and certificates are those that `requests` finds in the environment.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._place = 0  # number of bytes returned so far
        self._origin: dict[str, Any] | None = None  # identity of the file in the first response
        self._response: requests.Response | None = None
        self._delays = delays()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, or with a negative size all remaining bytes; none at the end.

        Raises:
            FileNotFoundError: the server has no such file.
            PermissionError: the server denies access.
            LastingError: the address is invalid, the server returned another error, the file was replaced while it was
                read, or the last attempt failed; the message names the address.
        """
        while size:
            try:
                if self._response is None:
                    self._connect()
                data = self._take(size)
            except (requests.HTTPError, requests.ConnectionError, requests.Timeout, HTTPError) as error:
                self._wait(error)
            except requests.RequestException as error:
                raise LastingError(f"{self._url} cannot be read ({one_line(error)})") from error
            else:
                self._place += len(data)
                if data:
                    self._delays = delays()
                return data
        return b""

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()
        super().close()

    def _take(self, size: int) -> bytes:
        """Return the next bytes of the response; a response that ends before the file does is an error."""
        assert self._response is not None
        assert self._origin is not None
        data = self._response.raw.read(size if size > 0 else None, decode_content=False)
        place, total = self._place + len(data), self._origin["total"]
        if (size < 0 or not data) and total not in (None, place):
            raise ProtocolError(f"only {place} of {total} bytes arrived")
        return data

    def _connect(self) -> None:
        """Request the rest of the file."""
        headers: dict[str, Any] = {"User-Agent": "mocodet", "Accept-Encoding": "identity"}
        if self._place and self._origin:  # requests omits headers that are None
            headers |= {"Range": f"bytes={self._place}-", "If-Range": self._origin["validator"]}
        response = self._response = requests.get(self._url, headers=headers, stream=True, timeout=download.TIMEOUT)
        response.raw.enforce_content_length = False  # `_take` compares the lengths
        answer = one_line(f"the server answered {response.status_code} {response.reason}")
        if response.status_code in (404, 410):
            raise FileNotFoundError(f"{self._url} does not exist")
        if response.status_code in (401, 403):
            raise PermissionError(answer)
        if response.status_code in PASSING_STATUS:
            raise requests.HTTPError(answer)
        if response.status_code not in (200, 206) and not (response.status_code == 416 and self._place):
            raise LastingError(f"{self._url} cannot be read ({answer})")
        self._go_on(response)

    def _go_on(self, response: requests.Response) -> None:
        """Make sure that the response is the same file, and skip to the next byte to return."""
        found = origin_of(self._url, response)
        known = self._origin = self._origin or found
        # A partial response carries an ETag if the whole one did, but may omit Last-Modified (RFC 9110, 15.3.7). Some
        # servers state the length of the file only with a part.
        same = found["validator"] in (None, known["validator"]) and (
            known["total"] is None or found["total"] in (None, known["total"])
        )
        place = response.headers.get("Content-Range", "").startswith(f"bytes {self._place}-")
        if not same or response.status_code == 416 or (response.status_code == 206 and not place):
            raise LastingError(f"{self._url} was replaced on its server while it was read; start again")
        left = self._place if response.status_code == 200 else 0
        while left:
            passed_over = response.raw.read(min(left, CHUNK), decode_content=False)
            if not passed_over:
                raise ProtocolError(f"only {self._place - left} of {known['total'] or 'many'} bytes arrived")
            left -= len(passed_over)

    def _wait(self, error: Exception) -> None:
        self._disconnect()
        delay = next(self._delays, None)
        if delay is None:
            raise LastingError(f"{self._url} cannot be read after several attempts ({one_line(error)})") from error
        logger.warning(f"{self._url}: {one_line(error)}; retrying from byte {self._place:,} in {delay:g} s")
        time.sleep(delay)

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

"""A file on a web server that is read sequentially and resumed after connection failures."""

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

CHUNK = 1 << 16  # number of bytes to skip at once


class WebFile(io.RawIOBase):
    """The contents of an http or https URL. The connection is opened by the first read.

    If a transfer fails, stalls for `download.TIMEOUT` seconds or ends early, or if the server is busy, the transfer is
    retried after a delay, starting at the byte where it stopped. If the server only supports complete downloads, the
    bytes before this position are downloaded again and skipped. Proxies and certificates are those that `requests`
    finds in the environment.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._place = 0  # number of bytes returned so far
        self._origin: dict[str, Any] | None = None  # identity of the file according to the first response
        self._response: requests.Response | None = None
        self._delays = delays()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, or all remaining bytes if ``size`` is negative. At the end, return no bytes.

        Raises:
            FileNotFoundError: the file does not exist on the server.
            PermissionError: the server denies access.
            LastingError: the URL is invalid, the server returned another error, the file was replaced while it was
                being read, or the last attempt failed. The message contains the URL.
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
        """Return the next bytes of the response. It is an error if the response ends before the file does."""
        assert self._response is not None
        assert self._origin is not None
        data = self._response.raw.read(size if size > 0 else None, decode_content=False)
        place, total = self._place + len(data), self._origin["total"]
        if (size < 0 or not data) and total not in (None, place):
            raise ProtocolError(f"only {place} of {total} bytes arrived")
        return data

    def _connect(self) -> None:
        """Request the remaining part of the file."""
        headers: dict[str, Any] = {"User-Agent": "mocodet", "Accept-Encoding": "identity"}
        if self._place and self._origin:  # requests omits headers whose value is None
            headers |= {"Range": f"bytes={self._place}-", "If-Range": self._origin["validator"]}
        response = self._response = requests.get(self._url, headers=headers, stream=True, timeout=download.TIMEOUT)
        response.raw.enforce_content_length = False  # `_take` compares the lengths
        answer = one_line(f"the server returned {response.status_code} {response.reason}")
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
        """Check that the response belongs to the same file, and skip to the next byte to return."""
        found = origin_of(self._url, response)
        known = self._origin = self._origin or found
        # A partial response includes an ETag if the full response did, but may omit Last-Modified (RFC 9110, 15.3.7).
        # Some servers only report the length of the file in partial responses.
        same = found["validator"] in (None, known["validator"]) and (
            known["total"] is None or found["total"] in (None, known["total"])
        )
        place = response.headers.get("Content-Range", "").startswith(f"bytes {self._place}-")
        if not same or response.status_code == 416 or (response.status_code == 206 and not place):
            raise LastingError(f"{self._url} was replaced on the server while it was being read; start again")
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
            raise LastingError(f"{self._url} cannot be read after multiple attempts ({one_line(error)})") from error
        logger.warning(f"{self._url}: {one_line(error)}; retrying from byte {self._place:,} in {delay:g} s")
        time.sleep(delay)

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

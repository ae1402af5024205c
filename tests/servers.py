"""A web server on this machine that behaves, or misbehaves, as a test requires."""

import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Site:
    """The content of the server, its behaviour, and its requests.

    Attributes:
        url: where it is, without a slash at the end.
        files: path, beginning with a slash, -> content.
        etag: goes out with every answer, and is what If-Range is compared with.
        ranges: whether a Range is heeded; otherwise the whole file goes out.
        heeds_if_range: whether If-Range is looked at.
        says_length: whether there is a Content-Length.
        cut: bytes after which each answer breaks off; None for none.
        status: when set, the answer to everything; one of success comes with the content.
        headers: further headers of each answer that has content.
        delay: an event to wait for in the middle of each answer.
        faults: what goes wrong with the next requests, one each: a status, or in the middle of the answer "cut" (it
            ends there), "reset" (as a machine that crashed does) or "stall" (until the client gives up); None: nothing.
        modified: the Last-Modified of each answer that has content.
        conditional: whether If-None-Match and If-Modified-Since are heeded.
        requests: (path, Range header or None) of each request.
        conditions: the If-Range header, or None, of each request for a file that is there.
        sent: how many bytes of content went out, by request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"1"'
    ranges: bool = True
    heeds_if_range: bool = True
    says_length: bool = True
    cut: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None
    faults: list[int | str | None] = field(default_factory=list)
    modified: str | None = None
    conditional: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


@contextmanager
def serve(**files: bytes) -> Iterator[Site]:
    """Serve ``files`` (``/name`` -> content) on a free port of 127.0.0.1 while the block runs."""
    site = Site(files={f"/{name}": content for name, content in files.items()})

    class Handler(_Handler):
        pass

    Handler.site = site
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.requests.append((self.path, wanted))
        content = site.files.get(self.path)
        fault = site.faults.pop(0) if site.faults else None
        status = fault if isinstance(fault, int) else site.status
        failed = status is not None and status >= 300
        if content is None or failed:
            self.send_error(status if failed else 404)
            return
        if site.conditional and self._is_known():
            self.send_response(304)
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges else 0
        condition = self.headers.get("If-Range")
        site.conditions.append(condition)
        # A weak ETag never matches here (RFC 9110 section 13.1.5).
        if condition and site.heeds_if_range and (condition != site.etag or condition.startswith("W/")):
            start = 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(site.status or (206 if start else 200))
        for name, value in site.headers.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.modified:
            self.send_header("Last-Modified", site.modified)
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:] if site.cut is None else content[start : start + site.cut]
        site.sent.append(len(body))
        self.wfile.write(body[: len(body) // 2])
        if isinstance(fault, str):
            self._break_off(fault)
            return
        if site.delay:
            site.delay.wait(20)
        self.wfile.write(body[len(body) // 2 :])

    def _is_known(self) -> bool:
        if known := self.headers.get("If-None-Match"):
            return known == self.site.etag
        return self.headers.get("If-Modified-Since", "") == self.site.modified

    def _break_off(self, fault: str) -> None:
        self.wfile.flush()
        if fault == "stall":
            self.connection.recv(1)  # returns when the client closes the connection
        elif fault == "reset":  # instead of the end of the stream
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

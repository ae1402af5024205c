"""The downloader against a server on this machine."""

import hashlib
import json
import math
import multiprocessing
import random
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mocodet.common import download as module
from mocodet.common.download import DownloadError, download, md5_of
from mocodet.common.locks import exclusive
from tests.servers import Site, serve

CONTENT = random.Random(0).randbytes(1 << 18)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(file=CONTENT) as site:
        yield site


def url(site: Site) -> str:
    return f"{site.url}/file"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def interrupted(site: Site, path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the files of a call that got the first ``length`` bytes, and forget its requests."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "ATTEMPTS", 1)
        site.cut = length
        with pytest.raises(DownloadError, match=rf"{length} of {len(CONTENT)} bytes arrived.* run the command again"):
            download(url(site), path)
    assert path.with_name(path.name + ".part").read_bytes() == site.files["/file"][:length]
    assert not path.exists()
    site.cut = None
    for noted in (site.requests, site.conditions, site.sent):
        noted.clear()


@pytest.mark.parametrize("md5", [None, MD5, MD5.upper(), MD5[:8]])
def test_download__good_file(site, tmp_path, md5):
    path = tmp_path / "new" / "file.bin"
    assert download(url(site), str(path), md5=md5, size=len(CONTENT)) == path
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["file.bin"]
    assert site.requests == [("/file", None)]


def test_download__what_is_there_is_checked_and_not_fetched(site, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert download(url(site), path, md5=MD5, size=len(CONTENT)) == path
    path.write_bytes(b"mine")
    assert download(url(site), path) == path
    with pytest.raises(DownloadError, match=r"file exists, but it has 4 bytes, expected 9\. Delete it"):
        download(url(site), path, size=9)
    with pytest.raises(DownloadError, match=rf"its MD5 sum is {hashlib.md5(b'mine').hexdigest()}, expected {MD5}\. D"):
        download(url(site), path, md5=MD5)
    assert path.read_bytes() == b"mine"
    assert site.requests == []


def test_download__what_is_there_in_a_folder_that_cannot_be_written(site, tmp_path, monkeypatch):
    """A shared cache, where nothing can be locked."""
    monkeypatch.setattr(module, "exclusive", None)
    (tmp_path / "file").write_bytes(CONTENT)
    assert download(url(site), tmp_path / "file", md5=MD5) == tmp_path / "file"


def test_download__wrong_md5(site, tmp_path):
    wrong = "0" * 8 if not MD5.startswith("0" * 8) else "1" * 8
    with pytest.raises(DownloadError, match=rf"/file: its MD5 sum is {MD5}, expected {wrong}…\. The download was"):
        download(url(site), tmp_path / "file", md5=wrong)
    assert names(tmp_path) == []


def test_download__wrong_size(site, tmp_path):
    with pytest.raises(DownloadError, match=rf"/file has {len(CONTENT)} bytes, expected 7; use another source"):
        download(url(site), tmp_path / "file", size=7)
    assert names(tmp_path) == []
    site.says_length = False
    with pytest.raises(DownloadError, match=rf"/file: it has {len(CONTENT)} bytes, expected 7\. The download was"):
        download(url(site), tmp_path / "file", size=7)
    assert names(tmp_path) == []
    assert len(site.requests) == 2, "to ask once more would not help"
    assert download(url(site), tmp_path / "file").read_bytes() == CONTENT


def test_download__broken_transfers_go_on_inside_one_call(site, tmp_path):
    site.cut = len(CONTENT) // 3
    assert download(url(site), tmp_path / "file", md5=MD5).read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert site.requests == [("/file", None), *(("/file", f"bytes={n * third}-") for n in (1, 2, 3))]
    assert sum(site.sent) == len(CONTENT), "no byte was sent twice"


def test_download__broken_for_good_and_taken_up_later(site, tmp_path):
    site.cut = 10
    message = (
        rf"was interrupted \(50 of {len(CONTENT)} bytes arrived\) in the last of 5 attempts. 50 bytes are kept; run the"
    )
    with pytest.raises(DownloadError, match=message):
        download(url(site), tmp_path / "file", md5=MD5)
    assert names(tmp_path) == ["file.part", "file.part.json"]
    site.cut = None
    site.requests.clear()
    site.sent.clear()
    assert download(url(site), tmp_path / "file", md5=MD5).read_bytes() == CONTENT
    assert site.requests == [("/file", "bytes=50-")]
    assert site.sent == [len(CONTENT) - 50]
    assert names(tmp_path) == ["file"]


def test_download__server_without_ranges_sends_all_again(site, tmp_path, monkeypatch):
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    site.ranges = False
    assert download(url(site), tmp_path / "file", md5=MD5).read_bytes() == CONTENT
    assert site.requests == [("/file", "bytes=1000-")]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_download__file_that_changed_in_between_is_not_mixed(site, tmp_path, monkeypatch, heeds_if_range):
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    site.heeds_if_range = heeds_if_range
    site.etag, site.files["/file"] = '"2"', CONTENT[::-1]
    assert download(url(site), tmp_path / "file").read_bytes() == CONTENT[::-1]
    assert site.requests[0] == ("/file", "bytes=1000-")
    assert site.conditions[0] == '"1"'


@pytest.mark.parametrize("validator", [None, 'W/"1"'])
def test_download__without_a_strong_validator_the_length_must_be_the_same(site, tmp_path, monkeypatch, validator):
    site.etag = validator
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    site.files["/file"] = CONTENT[::-1] + b"more"
    assert download(url(site), tmp_path / "file").read_bytes() == CONTENT[::-1] + b"more"
    (tmp_path / "file").unlink()
    site.files["/file"] = CONTENT
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    assert download(url(site), tmp_path / "file").read_bytes() == CONTENT
    assert site.sent == [len(CONTENT) - 1000]


def test_download__file_that_became_shorter_than_the_part(site, tmp_path, monkeypatch):
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    site.etag, site.heeds_if_range, site.files["/file"] = '"2"', False, b"short"
    assert download(url(site), tmp_path / "file").read_bytes() == b"short"


def test_download__part_of_another_source_or_of_none(site, tmp_path, monkeypatch):
    interrupted(site, tmp_path / "file", 1000, monkeypatch)
    site.files["/other"] = b"of a mirror" * 500
    assert download(f"{site.url}/other", tmp_path / "file").read_bytes() == b"of a mirror" * 500
    assert site.requests == [("/other", None)]
    (tmp_path / "unknown.part").write_bytes(b"of whatever")
    assert download(url(site), tmp_path / "unknown").read_bytes() == CONTENT
    assert names(tmp_path) == ["file", "unknown"]


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"url": "URL"}'])
def test_download__part_whose_record_is_damaged(site, tmp_path, record):
    (tmp_path / "file.part").write_bytes(b"of whatever")
    (tmp_path / "file.part.json").write_text(record.replace("URL", url(site)))
    assert download(url(site), tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]


def test_download__ended_before_the_last_rename(site, tmp_path):
    """The file was complete: no request is sent."""
    (tmp_path / "file.part").write_bytes(CONTENT)
    record = {"url": url(site), "validator": '"1"', "total": len(CONTENT)}
    (tmp_path / "file.part.json").write_text(json.dumps(record))
    assert download(url(site), tmp_path / "file", md5=MD5).read_bytes() == CONTENT
    assert site.requests == []


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 5)])
def test_download__server_refuses(site, tmp_path, status, attempts):
    site.status = status
    where = str(tmp_path / "file")
    with pytest.raises(DownloadError, match=rf"/file: the server answered {status} .*{url(site)} .*{where}$") as caught:
        download(url(site), where)
    assert "\n" not in str(caught.value)
    assert len(site.requests) == attempts


def test_download__server_answers_without_a_file(site, tmp_path):
    site.status, site.files["/file"] = 204, b""
    with pytest.raises(DownloadError, match=r"/file: the server answered 204 No Content, which contains no file; "):
        download(url(site), tmp_path / "file")
    assert names(tmp_path) == []


def test_download__behind_a_redirect_it_goes_on_where_it_broke_off(site, tmp_path):
    site.cut = len(CONTENT) // 2
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {url(site)}\r\nContent-Length: 0\r\n\r\n"
    with raw_server(redirect.encode()) as address:
        assert download(f"{address}/here", tmp_path / "file").read_bytes() == CONTENT
    assert site.requests == [("/file", None), ("/file", f"bytes={site.cut}-")]
    assert site.conditions == [None, '"1"']


def test_download__through_the_proxy_of_the_environment(site, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)
    address = "http://nowhere.invalid/file"
    site.files[address] = CONTENT
    assert download(address, tmp_path / "file").read_bytes() == CONTENT
    assert site.requests == [(address, None)]


def test_download__server_packs_the_file(site, tmp_path):
    """Apache announces even an unchanged .tgz as gzip-encoded: the checksum decides if there is one."""
    site.headers["Content-Encoding"] = "gzip"
    with pytest.raises(DownloadError, match=r"/file: the server sends the file compressed \(Content-Encoding: gzip\)"):
        download(url(site), tmp_path / "file")
    assert names(tmp_path) == []
    assert download(url(site), tmp_path / "file", md5=MD5).read_bytes() == CONTENT


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Answer every request with ``answer``, which need not be HTTP."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n", "server answered 302 .* redirect loop"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n", "/file: .*; check the URL, or"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://a/b\r\nContent-Length: 0\r\n\r\n", "/file: .*; check the URL, or"),
        (b"no\tHTTP " + b"at all " * 1000 + b"\r\n\r\n", "the transfer was interrupted .*no HTTP at all"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "/file: the transfer was interrupted"),
    ],
)
def test_download__whatever_the_server_says_is_told_on_one_line(tmp_path, monkeypatch, answer, message):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with raw_server(answer) as address, pytest.raises(DownloadError, match=message) as caught:
        download(f"{address}/file", tmp_path / "file")
    assert not set(str(caught.value)) & set("\n\r\t")
    assert len(str(caught.value)) < 1000


def test_download__offline(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "FIRST_PAUSE", None)  # waiting would be an error here
    with socket.socket() as taken:  # bound, so that nobody else listens there, and never listening
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        where = tmp_path / "file"
        message = rf"^{host} cannot be reached \(.*refused\); .*download http://{host}/file in .* save it as {where}$"
        with pytest.raises(DownloadError, match=message):
            download(f"http://{host}/file", where)
    assert names(tmp_path) == []


def test_download__server_falls_silent(site, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    site.delay = threading.Event()
    try:
        with pytest.raises(DownloadError, match=r"was interrupted \(.*timed out\).* run the command again to resume"):
            download(url(site), tmp_path / "file")
    finally:
        site.delay.set()


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://a/b", "no-scheme", "", "http://a/b c"])
def test_download__other_addresses(tmp_path, address):
    with pytest.raises(ValueError, match=r"expected a URL that starts with http:// or https://"):
        download(address, tmp_path / "file")


@pytest.mark.parametrize("md5", ["", "xyz", MD5 + "0"])
def test_download__no_md5(tmp_path, md5):
    with pytest.raises(ValueError, match="expected at most 32 hexadecimal digits"):
        download("http://a/b", tmp_path / "file", md5=md5)


def test_download__target_is_a_folder(site, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        download(url(site), tmp_path)
    assert site.requests == []


def test_download__disk_is_full(site, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "file.part").symlink_to("/dev/full")
    monkeypatch.setattr(module._Part, "discard", lambda _: None)
    with pytest.raises(DownloadError, match=r"file\.part cannot be written \(.*No space left.*\); the bytes received"):
        download(url(site), tmp_path / "file")


def test_download__progress_on_a_terminal_only(site, tmp_path, monkeypatch, capsys):
    download(url(site), tmp_path / "quiet", label="the thing")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    download(url(site), tmp_path / "shown", label="the thing")
    assert "the thing: 100%" in capsys.readouterr().err


def fetch(address: str, path: str, together) -> None:
    together.wait(60)
    download(address, path, md5=MD5)


def test_download__two_processes_at_once(site, tmp_path):
    """The second one waits for the first, and finds the file there."""
    site.delay = threading.Event()
    spawn = multiprocessing.get_context("spawn")
    path = tmp_path / "file"
    together = spawn.Barrier(2)
    processes = [spawn.Process(target=fetch, args=(url(site), str(path), together)) for _ in range(2)]
    for process in processes:
        process.start()
    wait_until(lambda: site.requests)
    # The other one is held up by the lock until the answer may end; were it not, it would send a request of its own.
    time.sleep(0.5)
    site.delay.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT
    assert site.requests == [("/file", None)]


def wait_until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError("it did not happen within 30 s")


def hold(path: str, held, release) -> None:
    with exclusive(path):
        held.set()
        release.wait(60)


def test_exclusive__waits_and_outlives_a_killed_holder(tmp_path, caplog):
    path = tmp_path / "new" / "file"
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(str(path), held, release))
    process.start()
    assert held.wait(60)

    with pytest.raises(OSError, match=r"file\.lock is held by another process"), exclusive(path, patience=0.1):
        pass
    assert caplog.messages == [f"waiting for another process, which holds {path}.lock"]
    caplog.clear()
    process.kill()
    process.join(60)
    with exclusive(path):
        assert caplog.messages == []


def test_exclusive__waits_without_end_until_the_other_is_done(tmp_path, caplog):
    path, entered = tmp_path / "file", []
    with exclusive(path):
        waiting = threading.Thread(target=lambda: enter(path, entered))
        waiting.start()
        wait_until(lambda: caplog.messages)
        assert entered == []
    waiting.join(60)
    assert entered == [path]


def enter(path: Path, entered: list[Path]) -> None:
    with exclusive(path, patience=math.inf):
        entered.append(path)


def test_md5_of__equals_hashlib(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT * 5)  # several chunks
    assert md5_of(path) == hashlib.md5(CONTENT * 5).hexdigest()

"""Copies of files from the web against servers on this machine."""

import logging
import re
from pathlib import Path

import pytest

from mocodet.common import download as downloads
from mocodet.common.download import DownloadError
from mocodet.common.url_cache import fetch, kept_at
from tests.servers import Site, serve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, caplog) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "FIRST_PAUSE", 0)
    caplog.set_level(logging.INFO, "mocodet")
    return tmp_path


def test_fetch__servers_with_equal_paths_are_told_apart():
    with serve(**{"a/R-18.pth": b"one"}) as one, serve(**{"a/R-18.pth": b"other"}) as other:
        found = {url: fetch(url) for site in (one, other) for url in (f"{site.url}/a/R-18.pth",)}
        assert [path.read_bytes() for path in found.values()] == [b"one", b"other"]
        assert {path.name for path in found.values()} == {"R-18.pth"}
        assert fetch(f"{one.url}/a/R-18.pth").read_bytes() == b"one"
        other.files["/a/R-18.pth?key=2"] = b"third"
        assert fetch(f"{other.url}/a/R-18.pth?key=2").read_bytes() == b"third", "the query is a part of the address"


def set_etag(site: Site, version: int) -> None:
    site.etag = f'"{version}"'


def set_weak_etag(site: Site, version: int) -> None:
    site.etag = f'W/"{version}"'


def set_date(site: Site, version: int) -> None:
    site.etag, site.modified = None, f"Fri, 0{version} May 2020 10:00:00 GMT"


def set_nothing(site: Site, version: int) -> None:
    site.etag = None


@pytest.mark.parametrize(
    ("says", "size", "same", "change"),
    [
        (set_etag, 5, "the same ETag", r'ETag "1" before, "2" now'),
        (set_weak_etag, 5, "the same ETag", r'ETag W/"1" before, W/"2" now'),
        (set_date, 5, "the same date and size", r"date Fri, 01 May .* before, Fri, 02 May .* now"),
        (set_nothing, 6, "the same size", r"size 5 before, 6 now"),
    ],
)
@pytest.mark.parametrize("conditional", [True, False], ids=["heeded", "in vain"])
def test_fetch__a_file_that_was_replaced_on_its_server(caplog, says, size, same, change, conditional):
    with serve(**{"R-18.pth": b"first"}) as site:
        url = f"{site.url}/R-18.pth"
        copy, site.conditional = kept_at(url), conditional
        says(site, 1)
        assert fetch(url).read_bytes() == b"first"
        assert fetch(url).read_bytes() == b"first"
        site.files["/R-18.pth"] = b"second"[:size]
        says(site, 2)
        assert fetch(url).read_bytes() == b"second"[:size]
        answered = "304 Not Modified" if conditional and says is not set_nothing else same
        assert caplog.messages[:-1] == [
            f"Downloading {url} to {copy}",
            f"{url}: the cached copy {copy} matches the server's file ({answered})",
        ]
        assert re.fullmatch(
            rf"{url} has changed on its server \({change}\); downloading it again to {copy}", caplog.messages[-1]
        )
        caplog.clear()
        fetch(url)
        assert "matches the server's file" in caplog.text, "the copy is the new one's"


def test_fetch__without_the_server_the_copy_is_used(caplog):
    with serve(**{"R-18.pth": b"first"}) as site:
        url = f"{site.url}/R-18.pth"
        path = fetch(url)
        for site.status in (503, 404):
            caplog.clear()
            assert fetch(url) == path
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert f"{url} could not be checked for changes, because the server answered" in record.message
            assert record.message.endswith(f"; using the cached copy {path}, which may be outdated")
    caplog.clear()
    assert fetch(url).read_bytes() == b"first"
    assert f"{url} could not be checked for changes ([Errno 111] Connection refused); using" in caplog.text
    with pytest.raises(DownloadError, match=r"^127\.0\.0\.1:\d+ cannot be reached .* save it as \S+/other\.pth$"):
        fetch(f"{url.rpartition('/')[0]}/other.pth")


def test_fetch__a_copy_that_was_cut_off_or_put_there_by_hand(caplog):
    with serve(**{"R-18.pth": b"first"}) as site:
        url = f"{site.url}/R-18.pth"
        path = kept_at(url)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"first")
        assert fetch(url).read_bytes() == b"first"
        assert "(the same size)" in caplog.messages[-1]
        path.write_bytes(b"fir")
        assert fetch(url).read_bytes() == b"first"
        path.write_bytes(b"fir")
        assert fetch(url).read_bytes() == b"first"
        assert "(size 3 before, 5 now)" in caplog.messages[-1]
        site.etag, site.says_length = None, False
        fetch(url)
        assert "because the server sent no ETag, date or size; using" in caplog.messages[-1]

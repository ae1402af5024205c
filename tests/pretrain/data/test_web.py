"""Shards from a web server that breaks off, stalls, is busy and truncates: no image is lost or repeated."""

import json
import logging

import pytest

from mocodet.common import download
from mocodet.pretrain.data import retrying
from mocodet.pretrain.data.shards import ShardIndex, ShardSampler, read_images
from mocodet.pretrain.data.web import WebFile
from tests.pretrain.data.test_shards import UNEVEN, take, write_shards
from tests.servers import serve

FAULTS = [503, "reset", None, "stall", None, "cut", 429, None, "cut", None, 500, "reset"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serves shards of `UNEVEN` sizes and their index."""
    monkeypatch.setattr(retrying, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    write_shards(tmp_path, UNEVEN)
    with serve(**{path.name: path.read_bytes() for path in tmp_path.iterdir()}) as site:
        yield site


@pytest.mark.parametrize("ranges", [True, False], ids=["in parts", "whole files only"])
@pytest.mark.parametrize("length", [True, False], ids=["said", "unsaid"])
def test_shard_sampler__no_image_is_lost_or_repeated(tmp_path, site, caplog, monkeypatch, ranges, length):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(retrying, "RETRY_DELAYS", (0.0,) * 9)  # a busy machine may also be late
    expected = take(ShardSampler(str(tmp_path / "index.json"), 12, 0, 9), 6)
    sampler = ShardSampler(f"{site.url}/index.json", 12, 0, 9)
    site.ranges, site.says_length, site.faults = ranges, length, list(FAULTS)
    with caplog.at_level(logging.WARNING, "mocodet.pretrain"):
        assert take(sampler, 6) == expected
    assert not site.faults
    said = "\n".join(caplog.messages)
    for fault in ("returned 503 Service Unavailable", "returned 429 Too Many Requests", "timed out", "reset by peer"):
        assert fault in said
    # Without a length, a response that ends early looks like the end of the file; tar's end mark shows the difference.
    assert (" bytes arrived; retrying from byte " if length else "is damaged or is not a tar archive") in said


def test_read_images__what_does_not_pass_is_told_with_the_address(site):
    shard = f"{site.url}/part-0.tar"
    site.status = 503
    with pytest.raises(
        ValueError, match=rf"^{shard} cannot be read after multiple attempts \(the server returned 503 "
    ):
        list(read_images(shard))
    assert len(site.requests) == 3, "once, and after each of two delays"
    site.status = 403
    with pytest.raises(ValueError, match=rf"^{shard} cannot be read \(the server returned 403 Forbidden\)$"):
        list(read_images(shard))
    site.status = 418
    with pytest.raises(ValueError, match=rf"^{shard} cannot be read \(the server returned 418 "):
        list(read_images(shard))
    site.status = None
    with pytest.raises(FileNotFoundError, match=rf"^{site.url}/absent\.tar does not exist$"):
        list(read_images(f"{site.url}/absent.tar"))
    with pytest.raises(
        FileNotFoundError, match=rf"^{site.url}/absent\.json does not exist; DATA\.SHARDS must be an index"
    ):
        ShardIndex(f"{site.url}/absent.json")
    with pytest.raises(ValueError, match=r"^http://:80/a\.tar cannot be read \("):
        list(read_images("http://:80/a.tar"))


@pytest.mark.parametrize("heeded", [True, False])
def test_web_file__that_is_replaced_meanwhile(site, heeded):
    site.heeds_if_range, site.faults = heeded, ["cut"]
    with WebFile(f"{site.url}/part-5.tar") as file:
        file.read(10)
        site.etag = '"2"'
        with pytest.raises(ValueError, match=rf"^{site.url}/part-5\.tar was replaced on the server while it was"):
            file.read()


def test_shard_index__of_a_server_never_runs_a_command(tmp_path, site):
    canary = tmp_path / "canary"
    for name in (f"pipe:touch {canary}", "reference://::https://127.0.0.1/settings.json"):
        entry = {"name": name, "images": 1, "bytes": 1}
        site.files["/index.json"] = json.dumps({"version": 1, "shards": [entry]}).encode()
        for location in (f"{site.url}/index.json", f"pipe:echo '{site.files['/index.json'].decode()}'"):
            with pytest.raises(ValueError, match=r"none was run\. Commands in an index that is not a local file"):
                ShardIndex(location, allow_pipe=True)
    assert not canary.exists()

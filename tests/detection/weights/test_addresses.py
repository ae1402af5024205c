"""``MODEL.WEIGHTS`` as a web address, from a server on this machine."""

import io

import pytest
import torch
from torch import nn

from mocodet.common.url_cache import kept_at
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from mocodet.detection.weights.addresses import local_copy
from tests.processes import run_in_processes
from tests.servers import serve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_load__another_servers_file_of_the_same_path_is_not_taken():
    """detectron2 caches both under the same name, and would load the first instead of the second."""

    def file_of(number: float) -> bytes:
        written = io.BytesIO()
        torch.save({"model": {"weight": torch.full((1, 1), number), "bias": torch.zeros(1)}}, written)
        return written.getvalue()

    model = nn.Linear(1, 1)
    with serve(**{"a/model.pth": file_of(1)}) as one, serve(**{"a/model.pth": file_of(2)}) as other:
        for site, number in ((one, 1), (other, 2), (one, 1)):
            MocoDetCheckpointer(model).load(f"{site.url}/a/model.pth")
            assert model.weight.item() == number
        one.files["/a/model.pth"], one.etag = file_of(3), '"2"'
        MocoDetCheckpointer(model).load(f"{one.url}/a/model.pth")
        assert model.weight.item() == 3
        other.files["/a/model.pth?key=4"] = file_of(4)
        url = f"{other.url}/a/model.pth?matching_heuristics=True&key=4"
        assert local_copy(url) == f"{kept_at(f'{other.url}/a/model.pth?key=4')}?matching_heuristics=True"


def _copies(url: str) -> tuple[str, str]:
    try:
        local_copy(f"{url}/absent.pth")
    except OSError as error:
        return local_copy(f"{url}/a.pth"), str(error)
    return "", ""


def test_local_copy__one_process_asks_for_all():
    with serve(**{"a.pth": b"first"}) as site:
        first, second = run_in_processes(_copies, site.url)
        assert [path for path, _ in site.requests] == ["/absent.pth", "/a.pth"]
        assert first == second
        assert first[0] == str(kept_at(f"{site.url}/a.pth"))
        assert "answered 404" in first[1]

import pickle

import pytest
import torch

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.mistaken_file import mistaken_for
from mocodet.detection.weights.arrays import load_array_pickle

LEFTOVERS = [
    ("is empty", b""),
    ("is empty", b"\n\n"),
    ("a web page", b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>"),
    ("a web page", b"\xef\xbb\xbf<HTML>"),
    ("an XML document", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    ("JSON text", b'{"message": "Not Found"}'),
    ("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    ("git annex get", b"/annex/objects/SHA256E-s1--00.pth\n"),
]


@pytest.mark.parametrize(("said", "content"), LEFTOVERS)
@pytest.mark.parametrize("load", [load_torch_file, load_array_pickle])
def test_a_readers_error__says_what_the_file_is(tmp_path, load, said, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_mistaken_for__not_weights_nor_other_bytes(tmp_path):
    path = tmp_path / "weights"
    torch.save({"a": torch.zeros(1)}, path)
    assert mistaken_for(path) is None
    for content in (pickle.dumps({"a": 1}), b"\x80\x02damaged", b"plain words"):
        path.write_bytes(content)
        assert mistaken_for(path) is None

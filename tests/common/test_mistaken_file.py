import gzip
import pickle
from collections import OrderedDict

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
    ("dvc pull", b"outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 37891850\n  path: model.pth\n"),
    ("dvc pull", b"md5: a304afb96060aad90176268345e10355\r\nfrozen: true\r\nouts:\r\n- path: model.pth\r\n"),
    ("a web page", b"<title>Sign in</title>"),
    ("a web page", b"<script>location = 'login'</script>"),
    ("a web page", "<html><body>Quota exceeded</body></html>".encode("utf-16")),
    ("a web page", "<html><body>Quota exceeded</body></html>".encode("utf-16-le")),
    ("a web page", "<html><body>Accès refusé</body></html>".encode("latin1")),
    ("an SVG image", b'<svg xmlns="http://www.w3.org/2000/svg">'),
    ("JSON text", b'[{"message": "Not Found"}]'),
    ("JSON text", b"[0.1, 0.2]"),
    ("JSON text", b"{}"),
    ("a gzip file, not a checkpoint; unpack it and specify the checkpoint in it", gzip.compress(b"weights")),
    ("begins with 512 zero bytes, like an incomplete download; download it again", bytes(3000)),
    ("begins with 9 zero bytes", bytes(9)),
    (r"text \('404: Not Found'\), not a checkpoint; download the file again", b"404: Not Found"),
    (r"text \('Entry not found'\)", b"Entry not found"),
    (r"text \('Access denied'\)", b"\n  Access denied\r\nContact the owner.\n"),
    (r"text \('Invalid username or password\.'\)", b"Invalid username or password."),
    (r"text \('\[403\] Accès refusé'\)", "[403] Accès refusé".encode()),
    (r"text \('é{60}\.\.\.'\)", ("é" * 100 + "\nx" + "é" * 400).encode()),
    ("because it is truncated", b"PK\x03\x04\x00\x00"),
]


@pytest.mark.parametrize(("said", "content"), LEFTOVERS)
@pytest.mark.parametrize("load", [load_torch_file, load_array_pickle])
def test_a_readers_error__says_what_the_file_is(tmp_path, load, said, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistaken_for__not_weights_nor_other_bytes(tmp_path):
    path = tmp_path / "weights"
    torch.save({"a": torch.zeros(1)}, path)
    assert mistaken_for(path) is None
    objects = [{"a": 1}, OrderedDict(a=1), [1]]
    pickles = [pickle.dumps(content, protocol=protocol) for content in objects for protocol in (0, 2, 4)]
    for content in (*pickles, b"\x80\x02damaged", b"\xe9", b"caf\xe9 or bytes", b"words\x00"):
        path.write_bytes(content)
        assert mistaken_for(path) is None


def test_mistaken_for__damaged_archives(tmp_path):
    """The reader tells the damage of a zip archive; the parts of a tar archive are unknown."""
    path = tmp_path / "weights"
    torch.save({"a": torch.zeros(1)}, path)
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[:place] + b"XX" + whole[place + 2 :])
    assert mistaken_for(path) is None
    path.write_bytes(b"\xff" * 257 + b"ustar" + b"\xff" * 500)
    assert (
        mistaken_for(path) == f"{path} is a tar archive, not a checkpoint; unpack it and specify the checkpoint in it"
    )


def test_load_array_pickle__text_protocol_is_not_called_text(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": print}, protocol=0))
    with pytest.raises(ValueError, match=r"it uses __builtin__\.print, which arrays do not require"):
        load_array_pickle(path)

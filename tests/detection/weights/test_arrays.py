"""Pickles of arrays from every writer; the hostile ones are in test_convert_damaged."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mocodet.detection.weights.arrays import load_array_pickle


def dump(content: object, path: Path, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("content", [b"garbage\0", b"\x80\x04\x95\xff\xff", pickle.dumps({"a": np.ones(99)})[:-60]])
def test_load_array_pickle__damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pkl cannot be read as pickled weights"):
        load_array_pickle(path)


def test_load_array_pickle__not_a_dict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains a list"):
        load_array_pickle(dump([1], tmp_path / "model.pkl"))


@pytest.mark.parametrize("protocol", range(6))
def test_load_array_pickle__protocols(tmp_path: Path, protocol: int) -> None:
    arrays = OrderedDict(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.asfortranarray(np.eye(3)), c=np.int64(4))
    found = load_array_pickle(dump({"blobs": arrays, "cfg": "x: é", "raw": b"\xff"}, tmp_path / "m.pkl", protocol))
    assert all(np.array_equal(found["blobs"][name], value) for name, value in arrays.items())
    assert found["cfg"] == "x: é"
    assert found["raw"] == b"\xff"


def test_load_array_pickle__python2(tmp_path: Path) -> None:
    """Bytes from Python 2 and an old numpy: byte strings for text, the module's former name."""
    body = (
        b"\x80\x02}q\x00U\x07conv1_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
        b"\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff"
        b"\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tbs."
    )
    path = tmp_path / "model.pkl"
    path.write_bytes(body)
    assert np.array_equal(load_array_pickle(path)["conv1_w"], np.array([1, -2], np.float32))


@pytest.mark.parametrize("protocol", [2, 5])
def test_load_array_pickle__reads_what_pickle_reads(tmp_path: Path, protocol: int) -> None:
    """Both byte orders, every kind of number, axes in any order, no axis, no elements."""
    codes = [order + code for order in "<>" for code in ("i2", "f2", "f8", "c16")]
    arrays = {code: np.arange(4).astype(code) for code in codes}
    arrays |= {"bool": np.array([True, False]), "byte": np.arange(3, dtype=np.uint8), "scalar": np.array(2.5)}
    arrays |= {"axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), "fortran": np.asfortranarray(np.eye(3))}
    if protocol > 2:  # Python 3 then needs its own type of bytes
        arrays["none"] = np.zeros((0, 3), np.float32)
    arrays |= {f"number {code}": np.array([1.5]).astype(code)[0] for code in codes}
    path = dump({"model": arrays}, tmp_path / "m.pkl", protocol)
    found, expected = load_array_pickle(path)["model"], pickle.loads(path.read_bytes())["model"]
    assert found.keys() == expected.keys() == arrays.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype.newbyteorder("="), value.shape), name
        assert np.array_equal(found[name], value), name


def test_load_array_pickle__attributes_of_a_dict_are_left(tmp_path: Path) -> None:
    """They would hide its methods."""
    weights = OrderedDict(a=np.ones(2))
    weights.get = 3
    found = load_array_pickle(dump({"model": weights}, tmp_path / "m.pkl"))["model"]
    assert found.get("a").tolist() == [1, 1]

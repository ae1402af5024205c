"""The conversion, compared with only reading and writing."""

import argparse

from mocodet.detection.benchmark import convert
from tests.benchmarks import run_once


def test_measure__a_row_for_each(monkeypatch):
    run_once(monkeypatch, convert)
    (rows,) = convert.measure(argparse.Namespace(arch="resnet18", pairs=1))
    names = [row.contestant for row in rows]
    assert names == [convert.REFERENCE, "mocodet convert --no-verify", "mocodet convert"]
    assert rows[0].share == 1.0

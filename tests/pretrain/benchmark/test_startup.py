"""The listing of a folder, against torchvision's, and processes that start."""

import pytest

from mocodet.pretrain.benchmark import startup
from mocodet.pretrain.benchmark.startup import by_scandir, by_torchvision, listing, make_files
from tests.benchmarks import run_once


def test_make_files__both_ways_of_listing_find_them(tmp_path):
    make_files(tmp_path, 1003)
    assert len(list(tmp_path.iterdir())) == 2
    assert by_torchvision(tmp_path) == by_scandir(tmp_path) == 1003


def test_listing__a_row_for_each(monkeypatch):
    run_once(monkeypatch, startup)
    monkeypatch.setattr(startup, "STEP", 0)
    rows = listing(10, pairs=1)
    ours = ["mocodet, the first time", "mocodet, again"]
    assert [row.contestant for row in rows] == [startup.MAKE_DATASET, *ours, startup.SCAN]
    assert rows[0].limit == startup.SCAN


def test_listing__all_must_find_as_many(monkeypatch):
    monkeypatch.setattr(startup, "STEP", 0)
    monkeypatch.setattr(startup, "by_torchvision", lambda root: 9)
    with pytest.raises(ValueError, match="expected 10 files, but torchvision's make_dataset found 9, mocodet"):
        listing(10, pairs=1)


def test_processes__each_runs(monkeypatch):
    run_once(monkeypatch, startup)
    started = []
    monkeypatch.setattr(startup, "python", lambda *arguments: lambda: started.append(arguments))
    names = [[row.contestant for row in rows] for rows in startup.processes(pairs=1)]
    assert names[0] == [startup.PYTHON, "mocodet train --help"]
    assert names[1][0] == startup.TORCHVISION
    assert set(started) >= {("-c", "pass"), ("-m", "mocodet", "train", "--help")}
    assert len(started) == sum(map(len, names))

import importlib.metadata
import json
import sys

import numpy as np
import torch

from mocodet.common.record import versions, write_record


def test_versions(monkeypatch):
    found = versions()
    assert (found["torch"], found["numpy"]) == (torch.__version__.split("+")[0], np.__version__)
    assert found["detectron2"]  # whatever its distribution is called

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("mocodet.common.versions.version", missing)
    assert set(versions().values()) == {None}


def test_write_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/mocodet", "pretrain", "DATA.ROOT", "my images"])
    write_record(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == {"command": ["mocodet", "pretrain", "DATA.ROOT", "my images"], "versions": versions()}

import importlib.util

import detectron2
import pytest

from mocodet.common.requirements import require_detectron2


def test_require_detectron2__installed():
    require_detectron2()


def test_require_detectron2__missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="not installed") as caught:
        require_detectron2()
    assert "make setup" in str(caught.value)
    assert "pip install" in str(caught.value)


@pytest.mark.parametrize("version", ["0.5", "0.5.9", "unknown"])
def test_require_detectron2__too_old(monkeypatch, version):
    monkeypatch.setattr(detectron2, "__version__", version)
    with pytest.raises(ImportError, match=rf">= 0\.6, found {version}; .*make setup"):
        require_detectron2()

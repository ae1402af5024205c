"""The lines of `mocodet --version`."""

from importlib.metadata import PackageNotFoundError

import pytest

from mocodet.common import versions as module


@pytest.mark.parametrize(
    ("installed", "holders", "told"),
    [
        ({"detectron2": "0.6"}, {}, "detectron2 0.6"),
        ({"sal-detectron2": "0.7.2"}, {"detectron2": ["sal-detectron2"]}, "detectron2 0.7.2 (sal-detectron2)"),
        ({}, {"numpy": ["numpy"]}, "detectron2 is not installed"),
    ],
)
def test_versions__name_what_holds_detectron2(installed, holders, told, monkeypatch):
    def version(name: str) -> str:
        if name in ("torch", "torchvision"):
            return "9.9"
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr(module, "packages_distributions", lambda: holders)
    assert module.versions().splitlines()[1:4] == ["torch 9.9", "torchvision 9.9", told]

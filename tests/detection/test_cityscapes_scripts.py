"""What detectron2's main imports inside Meta is the installed cityscapesScripts; tests/detection runs with either."""

import importlib
import importlib.util
import sys

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as installed  # noqa: N813
import pytest
from cityscapesscripts.helpers import labels

import mocodet.detection  # noqa: F401 (registers the name)

PREFIX = "deeplearning.projects.cityscapesApi"


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "deeplearning"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "deeplearning"]:
        del sys.modules[name]


def test_cityscapes_scripts__upstreams_statements_give_the_installed_modules():
    # As in detectron2/data/datasets/cityscapes.py and detectron2/evaluation/cityscapes_evaluation.py of 02b5c4e.
    import deeplearning.projects.cityscapesApi.cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as found  # noqa: N813
    from deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels import id2label

    assert found is installed
    assert id2label is labels.id2label
    assert labels.__name__ == labels.__spec__.name == "cityscapesscripts.helpers.labels"


@pytest.mark.parametrize(
    "name", ["deeplearning.other", f"{PREFIX}.other", f"{PREFIX}.cityscapesscripts.other", "deeplearningx", "deep"]
)
def test_cityscapes_scripts__nothing_else_is_found(name):
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'".replace(".", r"\.")):
        importlib.import_module(name)


def test_cityscapes_scripts__not_installed(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cityscapesscripts" else find_spec(name)
    )
    with pytest.raises(ModuleNotFoundError, match=rf"No module named '{PREFIX}\.cityscapesscripts'"):
        importlib.import_module(f"{PREFIX}.cityscapesscripts.helpers.labels")

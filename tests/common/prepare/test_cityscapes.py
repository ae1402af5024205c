import numpy as np
import pytest
from PIL import Image

from mocodet.common.prepare.datasets import plan_of
from tests.common.prepared import FRAME, label_file, make_streets


@pytest.fixture
def streets(tmp_path):
    return make_streets(tmp_path)


def test_cityscapes__training_ids_equal_those_that_its_own_scripts_draw(streets):
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    for split in ("train", "val"):
        base = streets / f"cityscapes/gtFine/{split}/{FRAME}_gtFine"
        drawn = streets / "drawn.png"
        json2labelImg(f"{base}_polygons.json", drawn, "trainIds")
        with Image.open(drawn) as expected, Image.open(f"{base}_labelTrainIds.png") as image:
            assert set(np.unique(expected)) == {0, 10, 13, 255}
            assert (np.asarray(image) == np.asarray(expected)).all()
    assert all(step.done() for step in plan_of("cityscapes", streets).further)


def test_cityscapes__again_makes_the_training_ids_anew(streets):
    path = streets / label_file("labelTrainIds.png")
    good = path.read_bytes()
    path.write_bytes(b"")
    (step,) = plan_of("cityscapes", streets).further
    assert step.done()
    step.forget()
    assert not step.done()
    step.run()
    assert path.read_bytes() == good

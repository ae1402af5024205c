import json
from pathlib import Path

import pytest

from mocodet.detection.data.coco import load_coco
from tests.detection.tiny import CLASSES, make_coco


@pytest.fixture
def entry(tmp_path: Path) -> dict:
    return make_coco(tmp_path)


def load(entry: dict, classes: tuple[str, ...] = ()) -> list[dict]:
    return load_coco(entry["NAME"], entry["JSON"], entry["IMAGES"], classes)


def edit(entry: dict, **changes: object) -> None:
    path = Path(entry["JSON"])
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_coco__classes_that_agree(entry):
    assert len(load(entry, CLASSES)) == 4


def test_load_coco__classes_that_do_not(entry):
    with pytest.raises(ValueError, match=r"CLASSES is dog, cat, but the categories .* are cat, dog"):
        load(entry, ("dog", "cat"))


@pytest.mark.parametrize("missing", ["JSON", "IMAGES"])
def test_load_coco__missing(entry, missing):
    with pytest.raises(FileNotFoundError, match=f"data set {entry['NAME']}: there is no .*nowhere"):
        load(entry | {missing: "nowhere"})


def test_load_coco__missing_image(entry):
    (Path(entry["IMAGES"]) / "2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 4 images .* the first is .*2\.jpg"):
        load(entry)


def test_load_coco__no_image(entry):
    edit(entry, images=[], annotations=[])
    with pytest.raises(ValueError, match="names no image: the data set is empty"):
        load(entry)


def test_load_coco__unknown_category(entry):
    edit(entry, categories=[{"id": 3, "name": "cat"}])
    with pytest.raises(ValueError, match=r"is not a COCO JSON of instances.*category_id=5"):
        load(entry)


def test_load_coco__not_json(entry):
    Path(entry["JSON"]).write_text("{")
    with pytest.raises(ValueError, match="is not a COCO JSON"):
        load(entry)

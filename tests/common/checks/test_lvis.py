import pytest

from mocodet.common.checks import lvis
from mocodet.common.checks.findings import Tally
from tests.common.checks.good import HEIGHT, WIDTH, jpeg, write_json


def lvis_content() -> dict:
    return {
        "images": [
            {
                **{"id": 5, "file_name": "COCO_val2014_000000000005.jpg", "width": WIDTH, "height": HEIGHT},
                "coco_url": "http://images.cocodataset.org/train2017/000000000005.jpg",
                **{"neg_category_ids": [2], "not_exhaustive_category_ids": [1]},
            }
        ],
        "categories": [
            {"id": 1, "name": "acorn", "frequency": "r", "image_count": 1},
            {"id": 2, "name": "aerosol", "frequency": "f", "image_count": 200},
        ],
        "annotations": [
            {
                **{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 40.0},
                "segmentation": [[1, 1, 10, 1, 10, 10]],
            }
        ],
    }


@pytest.fixture
def vocabulary(tmp_path):
    for split in ("train2017", "val2017"):
        jpeg(tmp_path / "coco" / split / "000000000005.jpg")
    for split in ("train", "val"):
        write_json(tmp_path / f"lvis/lvis_v0.5_{split}.json", lvis_content())
    return tmp_path


LVIS_FAULTS = [
    (("images", "coco_url", None), "lacks coco_url"),
    (("images", "neg_category_ids", None), "lacks the list neg_category_ids"),
    (("images", "neg_category_ids", [1]), "lists category 1 as absent, but has an annotation of this category"),
    (("images", "not_exhaustive_category_ids", [3]), "has 3 in not_exhaustive_category_ids, which is not a category"),
    (("images", "neg_category_ids", [[]]), "has [] in neg_category_ids, which is not a category"),
    (("categories", "frequency", "x"), "category 1 (acorn) has the frequency 'x'"),
    (("categories", "image_count", None), "category 1 (acorn) lacks image_count"),
    (("annotations", "segmentation", None), "has a segmentation without a polygon"),
    (("annotations", "bbox", [50, 1, 9, 9]), "outside its image"),
]


@pytest.mark.parametrize(("edit", "words"), LVIS_FAULTS)
def test_lvis__check(vocabulary, edit, words):
    assert list(lvis.check(vocabulary, Tally(), any_size=True)) == []
    kind, key, value = edit
    content = lvis_content()
    content[kind][0][key] = value
    if value is None:
        del content[kind][0][key]
    path = vocabulary / "lvis/lvis_v0.5_val.json"
    write_json(path, content)
    (found,) = lvis.check(vocabulary, Tally(), any_size=True)
    assert found.file == path
    assert words in str(found)


def test_lvis__check_of_images_and_counts(vocabulary):
    (vocabulary / "coco/train2017/000000000005.jpg").unlink()
    found = list(lvis.check(vocabulary, Tally()))
    assert {fault.file for fault in found[:1]} == {vocabulary / "coco/train2017/000000000005.jpg"}
    # Twice the categories, once the images.
    assert sum("but the published data set has" in fault.what for fault in found) == 3

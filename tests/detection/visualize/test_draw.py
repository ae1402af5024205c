import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util

from mocodet.detection.data.classes import class_colours
from mocodet.detection.evaluation.things import Thing
from mocodet.detection.visualize.draw import GAP, TITLE_HEIGHT, draw_columns
from tests.detection.tiny import new_name

NAMES = ("cat", "dog")
HEIGHT, WIDTH = 60, 100
SCALE = 4  # 100 pixels become 400
CAT = Thing(0, box=(10, 20, 60, 50), score=0.9)


@pytest.fixture
def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)


@pytest.fixture
def metadata():
    return MetadataCatalog.get(new_name())


def panels(page: np.ndarray, columns: int) -> list[np.ndarray]:
    """The columns without their titles."""
    step = SCALE * WIDTH + GAP
    return [page[TITLE_HEIGHT:, column * step : column * step + SCALE * WIDTH] for column in range(columns)]


def changed(panel: np.ndarray) -> np.ndarray:
    """Which pixels differ from the image, H x W."""
    return (panel != 128).any(axis=2)


def test_draw_columns__size(image, metadata):
    page = draw_columns(image, [("ground truth", [CAT]), ("moco", []), ("random", [CAT])], NAMES, metadata)
    assert page.dtype == np.uint8
    assert page.shape == (TITLE_HEIGHT + SCALE * HEIGHT, 3 * SCALE * WIDTH + 2 * GAP, 3)
    large = draw_columns(np.zeros((300, 500, 3), dtype=np.uint8), [("ground truth", [])], NAMES, metadata)
    assert large.shape == (TITLE_HEIGHT + 300, 500, 3)


def test_draw_columns__a_box_is_drawn_where_it_is(image, metadata):
    with_box, without = panels(draw_columns(image, [("a", [CAT]), ("b", [])], NAMES, metadata), 2)
    assert not changed(without).any()
    x0, y0, x1, y1 = (SCALE * side for side in CAT.box)
    for edge in (np.s_[y0, x0 + 80 : x1], np.s_[y1, x0 + 80 : x1], np.s_[y0:y1, x1]):  # the label is at the left
        assert changed(with_box)[edge].mean() > 0.9
    assert not changed(with_box)[y0 + 20 : y1 - 20, x0 + 20 : x1 - 20].any()  # no mask, nothing within
    assert not changed(with_box)[: y0 - 20, x0 + 80 :].any()


def test_draw_columns__title_and_label_say_what_it_is(image, metadata):
    def page(title: str, thing: Thing) -> np.ndarray:
        return draw_columns(image, [(title, [thing])], NAMES, metadata)

    one = page("moco", CAT)
    assert np.array_equal(one, page("moco", CAT))
    other_title = page("random $x_", CAT)  # no formula
    assert np.array_equal(one[TITLE_HEIGHT:], other_title[TITLE_HEIGHT:])
    assert not np.array_equal(one[:TITLE_HEIGHT], other_title[:TITLE_HEIGHT])
    assert not np.array_equal(one, page("moco", Thing(0, box=CAT.box, score=0.5)))
    long = page("x" * 80, CAT)[:TITLE_HEIGHT]
    assert (long < 192).any()
    assert (long[:, [0, -1]] == 255).all()  # it fits


@pytest.mark.parametrize("kind", ["polygons", "run lengths", "bits"])
def test_draw_columns__masks(image, metadata, kind):
    bits = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    bits[20:50, 10:60] = 1
    x0, y0, x1, y1 = CAT.box
    mask = {
        "polygons": [np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=float)],
        "run lengths": mask_util.encode(np.asfortranarray(bits)),
        "bits": bits,
    }[kind]
    (panel,) = panels(draw_columns(image, [("a", [Thing(0, box=CAT.box, mask=mask)])], NAMES, metadata), 1)
    inner = panel[25 * SCALE : 45 * SCALE, 40 * SCALE : 55 * SCALE].reshape(-1, 3)
    assert (inner == inner[0]).all()
    expected = (class_colours(NAMES, metadata)[0] * 255 + 128) / 2
    assert inner[0] == pytest.approx(expected, abs=2)


def test_draw_columns__regions_of_pixels(image, metadata):
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:, 50:] = 1
    things = [Thing(0, mask=labels == 0), Thing(1, mask=mask_util.encode(np.asfortranarray(labels)))]
    (panel,) = panels(draw_columns(image, [("a", things)], NAMES, metadata), 1)
    expected = (class_colours(NAMES, metadata) * 255 + 128) / 2
    for column, colour in zip((4, 96), expected, strict=True):  # away from the names in the middle of the regions
        assert panel[SCALE * 4, SCALE * column] == pytest.approx(colour, abs=2)


def test_draw_columns__region_of_another_size(image, metadata):
    with pytest.raises(ValueError, match="region has 3 x 2 pixels, but its image has 100 x 60"):
        draw_columns(image, [("a", [Thing(0, mask=np.ones((2, 3), dtype=np.uint8))])], NAMES, metadata)


def test_draw_columns__keypoints(image, metadata):
    metadata.keypoint_names = ("left", "right")
    metadata.keypoint_connection_rules = [("left", "right", (255, 0, 0))]
    points = np.array([[70.0, 10.0, 2.0], [95.0, 10.0, 2.0]])
    hidden = np.array([[70.0, 10.0, 2.0], [0.0, 0.0, 0.0]])
    columns = [
        ("a", [Thing(0, box=CAT.box, keypoints=points)]),
        ("b", [Thing(0, box=CAT.box, keypoints=hidden)]),
        ("c", [Thing(0, keypoints=points)]),  # as in COCO's format of keypoint results
    ]
    both, one, alone = panels(draw_columns(image, columns, NAMES, metadata), 3)
    for panel in (both, alone):
        assert changed(panel)[SCALE * 10, SCALE * 72 : SCALE * 93].all()
    assert not changed(one)[SCALE * 10, SCALE * 75 : SCALE * 93].any()
    assert changed(one)[SCALE * 10, SCALE * 70]

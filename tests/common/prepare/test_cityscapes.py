import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.prepare import cityscapes
from mocodet.common.prepare.faults import Tally
from mocodet.common.prepare.steps import Plan, prepare
from tests.common.prepare.good import HEIGHT, WIDTH, make_zip, png

FRAME = "aachen/aachen_000000_000019"
POLYGONS = [  # drawn in this order, one over the other
    {"label": "road", "polygon": [[0, 10], [39, 10], [39, 29], [0, 29]]},
    {"label": "license plate", "polygon": [[1, 1], [5, 1], [5, 5]]},
    {"label": "cargroup", "polygon": [[20, 5], [35, 5], [35, 20]]},
    {"label": "sky", "polygon": [[0, 0], [39, 0], [39, 4]]},
    {"label": "caravan", "polygon": [[3, 12], [12, 12], [3, 25]]},
]


def cityscapes_files() -> dict[str, dict[str, bytes]]:
    """Make the two archives' files, one frame each for train and val, drawn by cityscapesscripts itself."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    text = json.dumps({"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": POLYGONS})
    annotation = Annotation()
    annotation.fromJsonText(text)
    photograph = Image.new("RGB", (WIDTH, HEIGHT), "grey")
    ids = createLabelImage(annotation, "ids")
    # 16 bits, as in the archive; recent Pillow does not write the mode of 32 bits that comes out here as PNG.
    instances = Image.fromarray(np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16))
    truth, images = {"README": b"", "license.txt": b""}, {"README": b""}
    for split in ("train", "val"):
        images[f"leftImg8bit/{split}/{FRAME}_leftImg8bit.png"] = png_bytes(photograph)
        truth[f"gtFine/{split}/{FRAME}_gtFine_labelIds.png"] = png_bytes(ids)
        truth[f"gtFine/{split}/{FRAME}_gtFine_instanceIds.png"] = png_bytes(instances)
        truth[f"gtFine/{split}/{FRAME}_gtFine_polygons.json"] = text.encode()
        truth[f"gtFine/{split}/{FRAME}_gtFine_color.png"] = png_bytes(photograph)
    return {"gtFine_trainvaltest.zip": truth, "leftImg8bit_trainvaltest.zip": images}


def png_bytes(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def streets(tmp_path):
    pytest.importorskip("cityscapesscripts")
    plan = cityscapes.plan(tmp_path)
    sized = []
    for archive in plan.archives:
        content = make_zip(cityscapes_files()[archive.name])
        (tmp_path / archive.name).write_bytes(content)
        sized.append(replace(archive, size=len(content), unpacked=0))
    prepare(Plan(sized, plan.by_hand, plan.further), tmp_path, tmp_path)
    return tmp_path


def test_cityscapes__training_ids_equal_those_that_its_own_scripts_draw(streets):
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    for split in ("train", "val"):
        base = streets / f"cityscapes/gtFine/{split}/{FRAME}_gtFine"
        drawn = streets / "drawn.png"
        json2labelImg(f"{base}_polygons.json", drawn, "trainIds")
        with Image.open(drawn) as expected, Image.open(f"{base}_labelTrainIds.png") as image:
            assert set(np.unique(expected)) == {0, 10, 13, 255}
            assert (np.asarray(image) == np.asarray(expected)).all()
    assert all(step.done() for step in cityscapes.plan(streets).further)


def test_cityscapes__again_makes_the_training_ids_anew(streets):
    path = streets / gt("labelTrainIds.png")
    good = path.read_bytes()
    path.write_bytes(b"")
    (step,) = cityscapes.plan(streets).further
    assert step.done()
    step.forget()
    assert not step.done()
    step.run()
    assert path.read_bytes() == good


def gt(ending: str, split: str = "train") -> str:
    return f"cityscapes/gtFine/{split}/{FRAME}_gtFine_{ending}"


def left(split: str = "train") -> str:
    return f"cityscapes/leftImg8bit/{split}/{FRAME}_leftImg8bit.png"


def blank(value: int, size: tuple[int, int] = (WIDTH, HEIGHT)):
    return lambda path: png(path, np.full(size[::-1], value, np.uint8))


def polygons(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new))


CITYSCAPES_FAULTS = [
    (gt("labelIds.png"), Path.unlink, "is missing"),
    (gt("instanceIds.png"), Path.unlink, "is missing"),
    (gt("polygons.json", "val"), Path.unlink, "is missing"),
    (gt("labelTrainIds.png"), Path.unlink, "prepare_data.py cityscapes"),
    (gt("labelTrainIds.png"), blank(3), "is not what aachen_000000_000019_gtFine_labelIds.png gives"),
    (gt("labelTrainIds.png"), blank(19), "has the label 19, which stands for no class; known are 0-18, 255"),
    (gt("labelIds.png"), blank(34), "has the label 34, which stands for no class; known are 0-33"),
    (gt("labelIds.png"), blank(7, (30, 40)), "is 30 x 40, but its image says 40 x 30"),
    (gt("instanceIds.png"), blank(77), "has instances of label 77"),
    (gt("polygons.json"), polygons("road", "raod"), "object 1 has the label 'raod'"),
    (gt("polygons.json"), polygons("[0, 10], [39, 10], ", ""), "object 1 (road) has no polygon"),
    (gt("polygons.json"), polygons("}", ""), "is no JSON"),
    (gt("polygons.json"), polygons('"imgWidth": 40', '"imgWidth": 41'), "says that its image is 41 x 30"),
    (left(), lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be decoded"),
    (
        gt("instanceIds.png", "test/../val").replace("test/../", ""),
        lambda path: path.write_bytes(b""),
        "cannot be decoded",
    ),
]


@pytest.mark.parametrize(("file", "spoil", "words"), CITYSCAPES_FAULTS)
def test_cityscapes__check(streets, file, spoil, words):
    assert list(cityscapes.check(streets, Tally(), any_size=True)) == []
    spoil(streets / file)
    (found,) = cityscapes.check(streets, Tally(), any_size=True)
    assert found.file == streets / file
    assert words in found.what


def test_cityscapes__check_of_names_and_counts(streets):
    image = streets / left()
    image.rename(image.with_name("frame.png"))
    found = list(cityscapes.check(streets, Tally()))
    assert [fault.what.partition(",")[0].partition(":")[0] for fault in found] == [
        "is not called *_leftImg8bit.png",
        f"has no image {image}; prepare with --only leftImg8bit --again",
        "counts differ",
        "counts differ",
    ]

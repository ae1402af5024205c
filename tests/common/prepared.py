"""Small data sets as ``mocodet prepare-data`` makes them of archives."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.prepare.datasets import plan_of
from mocodet.common.prepare.steps import Plan, prepare
from tests.common.checks.good import HEIGHT, WIDTH
from tests.common.prepare.packed import make_tar, make_zip

WNIDS = ("n00000003", "n00000001", "n00000002")  # in the order of ILSVRC2012_ID, which is not that of the names


def devkit() -> bytes:
    """Make the development kit as image-net.org lays it out: synsets, a column of structures with inner nodes, too."""
    io = pytest.importorskip("scipy.io")
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [(number, wnid, "a, b", "gloss", 0, [], 0, 1300) for number, wnid in enumerate(WNIDS, start=1)]
    rows.append((4, "n00000004", "inner", "gloss", 2, [1, 2], 1, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in fields])
    for place, row in enumerate(rows):
        synsets[place, 0] = tuple(np.array(value) if isinstance(value, list) else value for value in row)
    buffer = BytesIO()
    io.savemat(buffer, {"synsets": synsets})
    top = "ILSVRC2012_devkit_t12"
    files = {f"{top}/data/meta.mat": buffer.getvalue(), f"{top}/readme.txt": b""}
    return make_tar({**files, f"{top}/data/ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n"}, "w:gz")


def make_image_net(root: Path) -> Path:
    """Prepare it from archives of two training images of each class, and a validation image of each."""
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="JPEG")
    contents = {
        "ILSVRC2012_devkit_t12.tar.gz": devkit(),
        "ILSVRC2012_img_val.tar": make_tar(
            {f"ILSVRC2012_val_{number:08}.JPEG": picture.getvalue() for number in (1, 2, 3)}
        ),
        "ILSVRC2012_img_train.tar": make_tar(
            {
                f"{wnid}.tar": make_tar({f"{wnid}_{number}.JPEG": picture.getvalue() for number in (1, 2)})
                for wnid in WNIDS
            }
        ),
    }
    plan = plan_of("imagenet", root)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    archives = [replace(each, size=len(contents[each.name]), unpacked=0, md5=None) for each in plan.archives]
    prepare(Plan(archives, plan.by_hand), root, root)
    return root


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


def make_streets(root: Path) -> Path:
    """Prepare Cityscapes from archives of one frame each for train and val."""
    pytest.importorskip("cityscapesscripts")
    plan = plan_of("cityscapes", root)
    sized = []
    for archive in plan.archives:
        content = make_zip(cityscapes_files()[archive.name])
        (root / archive.name).write_bytes(content)
        sized.append(replace(archive, size=len(content), unpacked=0))
    prepare(Plan(sized, plan.by_hand, plan.further), root, root)
    return root


def label_file(ending: str, split: str = "train") -> str:
    return f"cityscapes/gtFine/{split}/{FRAME}_gtFine_{ending}"

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mocodet.common.prepare import imagenet
from mocodet.common.prepare.faults import Tally
from mocodet.common.prepare.steps import Plan, prepare
from tests.common.prepare.good import make_tar

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


@pytest.fixture
def image_net(tmp_path):
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
    plan = imagenet.plan(tmp_path)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    archives = [replace(each, size=len(contents[each.name]), unpacked=0, md5=None) for each in plan.archives]
    prepare(Plan(archives, plan.by_hand), tmp_path, tmp_path)
    return tmp_path


def test_imagenet__class_folders(image_net):
    found = sorted(path.relative_to(image_net / "imagenet").as_posix() for path in image_net.rglob("imagenet/*/*/*"))
    assert found == [
        *(f"train/{wnid}/{wnid}_{number}.JPEG" for wnid in sorted(WNIDS) for number in (1, 2)),
        # The ground truth of images 1, 2, 3 is the classes 3, 1, 2.
        "val/n00000001/ILSVRC2012_val_00000003.JPEG",
        "val/n00000002/ILSVRC2012_val_00000001.JPEG",
        "val/n00000003/ILSVRC2012_val_00000002.JPEG",
    ]
    tally = Tally()
    assert list(imagenet.check(image_net, tally, any_size=True)) == []
    assert tally.counts["images"] == 9


def test_imagenet__validation_classes_equal_torchvisions(image_net, monkeypatch):
    from torchvision.datasets import imagenet as theirs

    kit = "ILSVRC2012_devkit_t12.tar.gz"
    monkeypatch.setitem(theirs.ARCHIVE_META, "devkit", (kit, None))
    theirs.parse_devkit_archive(image_net)
    assert imagenet.val_wnids(image_net / imagenet.DEVKIT) == theirs.load_meta_file(image_net)[1]


def test_imagenet__check(image_net):
    folder = image_net / "imagenet"
    (folder / "train/n00000001/n00000001_1.JPEG").write_bytes(b"x")
    (folder / "val/n00000002/ILSVRC2012_val_00000001.JPEG").unlink()
    (folder / "val/n00000003").rename(folder / "val/cats")
    found = {
        str(fault.file.relative_to(folder)): fault.what for fault in imagenet.check(image_net, Tally(), any_size=True)
    }
    assert sorted(found) == ["train/n00000001/n00000001_1.JPEG", "val/cats", "val/n00000002", "val/n00000003"]
    assert "is a class without images" in found["val/n00000002"]
    assert len(list(imagenet.check(image_net, Tally()))) == 4 + 4  # and two counts of each split


def test_imagenet__more_images_than_the_kit_knows(image_net):
    with pytest.raises(ValueError, match="is not among the 3 validation images"):
        imagenet.plan(image_net).archives[1].place("ILSVRC2012_val_00000004.JPEG")
    truth = image_net / imagenet.DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("4\n")  # an inner node
    with pytest.raises(ValueError, match="do not fit together"):
        imagenet.val_wnids(truth.parent)

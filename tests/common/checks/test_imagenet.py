import pytest

from mocodet.common.checks import imagenet
from mocodet.common.checks.findings import Tally
from tests.common.prepared import make_image_net


@pytest.fixture
def image_net(tmp_path):
    return make_image_net(tmp_path)


def test_imagenet__check(image_net):
    folder = image_net / "imagenet"
    (folder / "train/n00000001/n00000001_1.JPEG").write_bytes(b"x")
    (folder / "val/n00000002/ILSVRC2012_val_00000001.JPEG").unlink()
    (folder / "val/n00000003").rename(folder / "val/cats")
    found = {
        str(fault.file.relative_to(folder)): fault.what for fault in imagenet.check(image_net, Tally(), any_size=True)
    }
    assert sorted(found) == ["train/n00000001/n00000001_1.JPEG", "val/cats", "val/n00000002", "val/n00000003"]
    assert "is a class folder without images" in found["val/n00000002"]
    assert len(list(imagenet.check(image_net, Tally()))) == 4 + 4  # and two counts of each split

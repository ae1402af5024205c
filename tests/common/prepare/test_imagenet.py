import pytest

from mocodet.common.checks.findings import Tally
from mocodet.common.checks.imagenet import check
from mocodet.common.prepare.datasets import DEVKIT, plan_of, val_wnids
from tests.common.prepared import WNIDS, make_image_net


@pytest.fixture
def image_net(tmp_path):
    return make_image_net(tmp_path)


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
    assert list(check(image_net, tally, any_size=True)) == []
    assert tally.counts["images"] == 9


def test_imagenet__validation_classes_equal_torchvisions(image_net, monkeypatch):
    from torchvision.datasets import imagenet as theirs

    kit = "ILSVRC2012_devkit_t12.tar.gz"
    monkeypatch.setitem(theirs.ARCHIVE_META, "devkit", (kit, None))
    theirs.parse_devkit_archive(image_net)
    assert val_wnids(image_net / DEVKIT) == theirs.load_meta_file(image_net)[1]


def test_imagenet__more_images_than_the_kit_knows(image_net):
    with pytest.raises(ValueError, match="is not among the 3 validation images"):
        plan_of("imagenet", image_net).archives[1].place("ILSVRC2012_val_00000004.JPEG")
    truth = image_net / DEVKIT / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("4\n")  # an inner node
    with pytest.raises(ValueError, match="do not match"):
        val_wnids(truth.parent)

"""How Pascal VOC 2007 and 2012 come below the root of the data sets, with SBD's masks for trainaug."""

from functools import partial
from pathlib import Path

from mocodet.common.checks.voc import TRAINAUG_MASKS, list_file

from . import trainaug
from .archives import Archive, inside
from .steps import Need, Plan, Step

SBD = ("cls", "train.txt", "val.txt")  # what is needed of it


def _archive(name: str, year: str, split: str, size: int, md5: str) -> Archive:
    return Archive(
        name=name,
        part=year,
        place=inside((f"VOCdevkit/VOC{year}", f"VOC{year}")),
        targets=(f"VOC{year}/JPEGImages", f"VOC{year}/Annotations", f"VOC{year}/ImageSets/Main/{split}.txt"),
        size=size,
        unpacked=size,
        url=f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}",
        md5=md5,
    )


# Names, addresses and checksums as torchvision's datasets/voc.py and datasets/sbd.py give them; sizes in bytes are
# the servers' Content-Length.
ARCHIVES = (
    _archive("VOCtrainval_06-Nov-2007.tar", "2007", "trainval", 460_032_000, "c52e279531787c972589f7e41ab4ae64"),
    _archive("VOCtest_06-Nov-2007.tar", "2007", "test", 451_020_800, "b6e924de25625d8de591ea690078ad9f"),
    _archive("VOCtrainval_11-May-2012.tar", "2012", "trainval", 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd"),
    Archive(
        name="benchmark.tgz",
        part="trainaug",
        place=inside(*((f"benchmark_RELEASE/dataset/{name}", f"sbd/{name}") for name in SBD)),
        targets=tuple(f"sbd/{name}" for name in SBD),
        size=1_419_539_633,
        unpacked=100_000_000,  # the masks alone; its images are VOC's
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
        read_with="scipy",
        products=(f"VOC2012/{TRAINAUG_MASKS}", "VOC2012/ImageSets/Segmentation/trainaug.txt"),
    ),
)


def plan(root: Path) -> Plan:
    """Say how VOC2007 and VOC2012 come below ``root``."""
    folder = root / "VOC2012"
    make = Step(
        "trainaug",
        f"write the masks of VOC and SBD to {folder / TRAINAUG_MASKS}, and the list trainaug.txt",
        done=partial(trainaug.is_made, root),
        run=partial(trainaug.make, root),
        forget=partial(trainaug.remove, root),
    )
    train = list_file(folder, "Segmentation/train")
    need = Need("trainaug", train, "prepare VOC 2012 too: --only 2012 trainaug", brought_by="2012")
    return Plan(ARCHIVES, further=[make], needs=[need])

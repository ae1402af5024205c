"""How ImageNet, ILSVRC 2012 (image-net.org), comes below the root of the data sets; its archives need a login."""

import re
from functools import lru_cache
from pathlib import Path

from .archives import Archive, inside
from .matlab import load_mat
from .members import tar_of_tars
from .steps import Plan

BY_HAND = (
    "log in at https://image-net.org/challenges/LSVRC/2012/2012-downloads.php and take the training and the validation"
    " images and the development kit (Task 1 & 2)"
)
DEVKIT = "imagenet/devkit"
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def plan(root: Path) -> Plan:
    """Say how ImageNet comes below ``root``: ``imagenet/train/<wnid>`` and ``imagenet/val/<wnid>``."""

    @lru_cache
    def wnids() -> list[str]:
        return val_wnids(root / DEVKIT)

    def place_val(name: str) -> str | None:
        match = VAL_NAME.fullmatch(name)
        if match is None:
            return None
        number = int(match[1])
        if not 1 <= number <= len(wnids()):
            raise ValueError(f"{name} is not among the {len(wnids())} validation images that the development kit knows")
        return f"imagenet/val/{wnids()[number - 1]}/{name}"

    # Names and checksums as torchvision's datasets/imagenet.py gives them; sizes in bytes are those of the files.
    archives = (
        Archive(
            name="ILSVRC2012_devkit_t12.tar.gz",
            part="val",
            place=inside(("ILSVRC2012_devkit_t12/data", DEVKIT)),
            targets=(f"{DEVKIT}/{META}", f"{DEVKIT}/{TRUTH}"),
            size=2_500_000,
            exact=False,
            unpacked=4_000_000,
            md5="fa75699e90414af021442c21a62c3abf",
            read_with="scipy",
            products=("imagenet/val",),
        ),
        Archive(
            name="ILSVRC2012_img_val.tar",
            part="val",
            place=place_val,
            targets=("imagenet/val",),
            size=6_744_924_160,
            unpacked=6_800_000_000,
            md5="29b22e2961454d5413ddabcf34fc5622",
        ),
        Archive(
            name="ILSVRC2012_img_train.tar",
            part="train",
            place=inside(("", "imagenet/train")),
            targets=("imagenet/train",),
            size=147_897_477_120,
            unpacked=148_000_000_000,
            md5="1d675b47d978889d74fa0da5fadfb00e",
            members=tar_of_tars,
        ),
    )
    return Plan(archives, BY_HAND)


def val_wnids(devkit: Path) -> list[str]:
    """Return the class, a WordNet id, of each validation image in the order of their numbers.

    Args:
        devkit: holds ``meta.mat`` and ``ILSVRC2012_validation_ground_truth.txt``, whose line n is the number of image
            n's class in the former.

    Raises:
        ValueError: one of them is damaged.
    """
    meta, truth = devkit / META, devkit / TRUTH
    try:
        synsets = load_mat(meta)["synsets"]
        # Inner nodes of WordNet's tree are in the table too; only its leaves are classes.
        names = {int(row.ILSVRC2012_ID): str(row.WNID) for row in synsets if not int(row.num_children)}
        return [names[int(line)] for line in truth.read_text(encoding="ascii").split()]
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{meta} and {truth.name} do not fit together ({error!r}); --only val --again") from error

"""How COCO 2017 (cocodataset.org) comes below the root of the data sets."""

from pathlib import Path

from mocodet.common.checks.coco import ANNOTATIONS

from .archives import Archive, inside
from .steps import Plan


def _archive(part: str, name: str, size: int, unpacked: int, md5: str) -> Archive:
    return Archive(
        name=name,
        part=part,
        place=inside((part, f"coco/{part}")),
        targets=tuple(ANNOTATIONS) if part == "annotations" else (f"coco/{part}",),
        size=size,
        unpacked=unpacked,
        url=f"http://images.cocodataset.org/{'annotations' if part == 'annotations' else 'zips'}/{name}",
        md5=md5,
    )


# Addresses as cocodataset.org/#download gives them. It publishes no checksums; these are the ones that users of the
# files agree on (PaddlePaddle's and Avalanche's downloaders, for example), as are the sizes in bytes.
ARCHIVES = (
    _archive(
        "annotations", "annotations_trainval2017.zip", 252_907_541, 830_000_000, "f4bbac642086de4f52a3fdda2de5fa2c"
    ),
    _archive("val2017", "val2017.zip", 815_585_330, 830_000_000, "442b8da7639aecaf257c1dceb8ba8c80"),
    _archive("train2017", "train2017.zip", 19_336_861_798, 19_700_000_000, "cced6f7f71b7629ddf16f17bbcfab6b2"),
)


def plan(root: Path) -> Plan:
    """Say how COCO 2017 comes below ``root``."""
    return Plan(ARCHIVES)

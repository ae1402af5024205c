"""How LVIS v0.5 (lvisdataset.org) comes below the root of the data sets."""

from pathlib import Path

from mocodet.common.checks.lvis import FILES

from .archives import Archive, inside
from .steps import Need, Plan

# The addresses are those of v0.5 on lvisdataset.org; no checksum is published. Sizes are rough.
ARCHIVES = tuple(
    Archive(
        name=f"{FILES[split]}.zip",
        part=split,
        place=inside((FILES[split], f"lvis/{FILES[split]}")),
        targets=(f"lvis/{FILES[split]}",),
        size=size,
        unpacked=unpacked,
        url=f"https://dl.fbaipublicfiles.com/LVIS/{FILES[split]}.zip",
        exact=False,
    )
    for split, size, unpacked in (("train", 350_000_000, 1_000_000_000), ("val", 30_000_000, 80_000_000))
)


def plan(root: Path) -> Plan:
    """Say how LVIS v0.5 comes below ``root``."""
    otherwise = "LVIS annotates COCO's images: prepare coco first"
    return Plan(ARCHIVES, needs=[Need(each.part, root / "coco" / f"{each.part}2017", otherwise) for each in ARCHIVES])

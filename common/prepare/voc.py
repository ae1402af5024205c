"""Pascal VOC 2007 and 2012 (host.robots.ox.ac.uk/pascal/VOC), with SBD's masks for trainaug."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocodet.common.text import first_few

from . import trainaug
from .archives import Archive, inside
from .faults import (
    Fault,
    ImageJob,
    Size,
    Tally,
    box_fault,
    check_images,
    count_fault,
    files_below,
    image_size,
    repeated,
)
from .steps import Need, Plan, Step

# Names, addresses and checksums as torchvision's datasets/voc.py and datasets/sbd.py give them; sizes in bytes are
# the servers' Content-Length.
ARCHIVES = (
    Archive(
        name="VOCtrainval_06-Nov-2007.tar",
        part="2007",
        place=inside(("VOCdevkit/VOC2007", "VOC2007")),
        targets=("VOC2007/JPEGImages", "VOC2007/Annotations", "VOC2007/ImageSets/Main/trainval.txt"),
        size=460_032_000,
        unpacked=460_000_000,
        url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar",
        md5="c52e279531787c972589f7e41ab4ae64",
    ),
    Archive(
        name="VOCtest_06-Nov-2007.tar",
        part="2007",
        place=inside(("VOCdevkit/VOC2007", "VOC2007")),
        targets=("VOC2007/JPEGImages", "VOC2007/Annotations", "VOC2007/ImageSets/Main/test.txt"),
        size=451_020_800,
        unpacked=450_000_000,
        url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
        md5="b6e924de25625d8de591ea690078ad9f",
    ),
    Archive(
        name="VOCtrainval_11-May-2012.tar",
        part="2012",
        place=inside(("VOCdevkit/VOC2012", "VOC2012")),
        targets=("VOC2012/JPEGImages", "VOC2012/Annotations", "VOC2012/ImageSets/Main/trainval.txt"),
        size=1_999_639_040,
        unpacked=2_000_000_000,
        url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        md5="6cd6e144f989b92b3379bac3b3de84fd",
    ),
    Archive(
        name="benchmark.tgz",
        part="trainaug",
        place=inside(
            ("benchmark_RELEASE/dataset/cls", "sbd/cls"),
            ("benchmark_RELEASE/dataset/train.txt", "sbd/train.txt"),
            ("benchmark_RELEASE/dataset/val.txt", "sbd/val.txt"),
        ),
        targets=("sbd/cls", "sbd/train.txt", "sbd/val.txt"),
        size=1_419_539_633,
        unpacked=100_000_000,  # the masks alone; its images are VOC's
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
        read_with="scipy",
        products=(f"VOC2012/{trainaug.FOLDER}", "VOC2012/ImageSets/Segmentation/trainaug.txt"),
    ),
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Images in each list of ImageSets/Main, as VOC's pages "Database statistics" give them.
DETECTION_COUNTS = {"VOC2007": {"trainval": 5_011, "test": 4_952}, "VOC2012": {"trainval": 11_540}}
SEGMENTATION_COUNTS = {"VOC2012": {"train": 1_464, "val": 1_449, "trainaug": trainaug.TRAINAUG_IMAGES}}
MASK_LABELS = frozenset((*range(len(CLASSES) + 1), 255))  # 255 is the rim of an object, and what is hard to tell


@dataclass(frozen=True)
class _Layout:
    """The folder of one year or of somebody's own data set, and the names of its classes."""

    folder: Path
    classes: tuple[str, ...]

    def image(self, name: str) -> Path:
        return self.folder / "JPEGImages" / f"{name}.jpg"

    def annotation(self, name: str) -> Path:
        return self.folder / "Annotations" / f"{name}.xml"


def plan(root: Path) -> Plan:
    """Say how VOC2007 and VOC2012 come below ``root``."""
    further = Step(
        "trainaug",
        f"write the masks of VOC and SBD to {root / 'VOC2012' / 'SegmentationClassAug'}, and the list trainaug.txt",
        lambda: trainaug.is_made(root),
        lambda: trainaug.make(root),
        lambda: trainaug.remove(root),
    )
    need = Need("trainaug", trainaug.list_path(root, "train"), "prepare VOC 2012 too: --only 2012 trainaug", "2012")
    return Plan(ARCHIVES, further=[further], needs=[need])


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of VOC2007 and VOC2012 below ``root``, of both or of the one that is there.

    Args:
        root: the folder of the data sets.
        tally: gets what was looked at.
        any_size: do not compare the numbers of images with the published ones.
        workers: processes that decode images; 0: this one does.
    """
    years = [year for year in DETECTION_COUNTS if (root / year).is_dir()]
    if not years:
        yield Fault(root, "holds neither VOC2007 nor VOC2012; prepare them, or name the folder above them with --root")
    for year in years:
        yield from check_layout(root / year, CLASSES, tally, workers=workers)
        if not any_size:
            yield from _counts(root / year, "Main", DETECTION_COUNTS[year])
            yield from _counts(root / year, "Segmentation", SEGMENTATION_COUNTS.get(year, {}))
        if year == "VOC2012" and not trainaug.is_made(root):
            tally.notes.append(f"{root / year} has no trainaug list, which semantic segmentation trains on")


def check_layout(folder: Path, classes: Sequence[str], tally: Tally, *, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of one folder in VOC's layout: Annotations, ImageSets/Main, JPEGImages.

    Looked at are the images that the lists of ``ImageSets/Main`` and ``ImageSets/Segmentation`` name. Lists called
    ``<class>_<split>.txt`` are VOC's classification task and not looked at.
    """
    absent = [name for name in ("Annotations", "ImageSets/Main", "JPEGImages") if not (folder / name).is_dir()]
    if absent:
        yield from (Fault(folder / name, "is missing; VOC's layout has it") for name in absent)
        return
    layout = _Layout(folder, tuple(classes))
    splits = _lists(layout, "Main")
    if not splits:
        yield Fault(folder / "ImageSets" / "Main", "holds no list of images, such as trainval.txt")
    listed: dict[str, Path] = {}  # each image, and the first list that names it
    for split in splits:
        names, faults = _read_list(split)
        yield from faults
        for name in names:
            listed.setdefault(name, split)
    pictures = {Path(name).stem for name in files_below(folder / "JPEGImages", [".jpg"])}
    sizes: dict[str, Size] = {}
    for name, split in listed.items():
        yield from _check_annotation(layout, name, split, sizes, tally)
    annotated = {Path(file).stem for file in files_below(folder / "Annotations", [".xml"])}
    for name in sorted(annotated - pictures - listed.keys()):
        yield Fault(layout.annotation(name), f"has no image JPEGImages/{name}.jpg; fetch the image or remove the file")
    jobs = [ImageJob(layout.image(name), sizes.get(name)) for name in listed if name in pictures]
    for name in sorted(listed.keys() - pictures):
        yield Fault(layout.image(name), f"is missing, and {listed[name]} names it; fetch it or take it off the list")
    masks, faults = _masks(layout, listed)
    yield from faults
    yield from check_images([*jobs, *masks], workers)
    tally.counts["images"] += len(jobs)
    tally.counts["masks"] += len(masks)
    if others := len(pictures - listed.keys()):
        tally.notes.append(f"{folder}: {others:,} images are in no list of ImageSets/Main")


def _lists(layout: _Layout, task: str) -> list[Path]:
    """List the lists of images; those of one class, ``cat_trainval.txt``, which say 1, 0 or -1 of each, are none."""
    prefixes = tuple(f"{name}_" for name in layout.classes)
    files = sorted((layout.folder / "ImageSets" / task).glob("*.txt"))
    return [file for file in files if not (file.name.startswith(prefixes) and _is_labelled(file))]


def _is_labelled(path: Path) -> bool:
    words = path.read_bytes().split()
    return len(words) > 1 and words[1] in (b"1", b"0", b"-1")


def _read_list(path: Path) -> tuple[list[str], list[Fault]]:
    """Read a list of image names, one a line; return the names, each once, and what is wrong with the list."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        return [], [Fault(path, f"is not text in UTF-8 ({error}); write it anew, one image name a line")]
    faults = (
        [] if lines else [Fault(path, "names no image; a split without images can be neither trained nor tested on")]
    )
    longer = [words for words in lines if len(words) > 1]
    faults += [Fault(path, f"must hold one image name a line, found {' '.join(words)!r}") for words in longer]
    names = [words[0] for words in lines if len(words) == 1]
    faults += [Fault(path, f"names {name} more than once; remove the repetitions") for name in repeated(names)]
    return list(dict.fromkeys(names)), faults


def _check_annotation(layout: _Layout, name: str, split: Path, sizes: dict[str, Size], tally: Tally) -> Iterator[Fault]:
    """Yield the faults of one image's XML file; enter the size that it gives into ``sizes``."""
    path = layout.annotation(name)
    if not path.is_file():
        yield Fault(path, f"is missing, and {split} names its image; fetch it or take {name} off the list")
        return
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: of the encoding that it names
        yield Fault(path, f"is not XML ({error}); unpack its archive with --again, or fetch it again")
        return
    tally.counts["annotation files"] += 1
    size = _size(tree)
    if size is None:
        yield Fault(path, "lacks <size> with a <width> and a <height> that are whole numbers above 0")
    else:
        sizes[name] = size
    filename = tree.findtext("filename")
    if filename is not None and Path(filename.strip()).stem != name:
        yield Fault(path, f"says that it is about {filename.strip()}; its own image is {name}.jpg")
    for number, node in enumerate(tree.findall("object"), start=1):
        tally.counts["objects"] += 1
        for what in _object_faults(node, layout.classes, size):
            yield Fault(path, f"object {number} {what}")


def _size(tree: ElementTree.Element) -> Size | None:
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    numbers = [int(side) for side in sides if re.fullmatch(r"\d{1,9}", side)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and all(numbers) else None


def _object_faults(node: ElementTree.Element, classes: Sequence[str], size: Size | None) -> Iterator[str]:
    name = node.findtext("name", "").strip()
    if name not in classes:
        yield f"is of class {name!r}; known are {first_few(classes)}"
    # detectron2's evaluator reads these three as well, and would fail only after the training.
    if node.findtext("pose") is None:
        yield "lacks <pose>; write <pose>Unspecified</pose>"
    for flag in ("truncated", "difficult"):
        if node.findtext(flag, "").strip() not in ("0", "1"):
            yield f"has <{flag}> {node.findtext(flag)!r}; it must be 0 or 1"
    try:
        xmin, ymin, xmax, ymax = (
            float(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        yield "lacks a <bndbox> with the numbers <xmin>, <ymin>, <xmax> and <ymax>"
        return
    # VOC counts pixels from 1 and includes the last one.
    if fault := box_fault((xmin - 1, ymin - 1, xmax, ymax), size):
        yield f"({name}): the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} {fault}"


def _masks(layout: _Layout, looked_at: Container[str]) -> tuple[list[ImageJob], list[Fault]]:
    """List the masks that ``ImageSets/Segmentation`` asks for, and what is wrong with those lists.

    Of a missing image that is ``looked_at`` anyway nothing is said again.
    """
    jobs: dict[Path, ImageJob] = {}
    faults = []
    for split in _lists(layout, "Segmentation"):
        names, found = _read_list(split)
        faults += found
        folder = layout.folder / (trainaug.FOLDER if split.stem == "trainaug" else "SegmentationClass")
        for name in names:
            size = image_size(layout.image(name))
            if size is None and name not in looked_at:
                faults.append(Fault(layout.image(name), f"is missing or no image, and {split} names it; fetch it"))
            elif not (folder / f"{name}.png").is_file():
                faults.append(Fault(folder / f"{name}.png", f"is missing, and {split} names it; prepare with --again"))
            else:
                jobs[folder / f"{name}.png"] = ImageJob(folder / f"{name}.png", size, "its image", MASK_LABELS)
    return list(jobs.values()), faults


def _counts(folder: Path, task: str, expected: dict[str, int]) -> Iterator[Fault]:
    for split, number in expected.items():
        path = folder / "ImageSets" / task / f"{split}.txt"
        if path.is_file():
            yield from count_fault(path, "images", len(_read_list(path)[0]), number)
        elif split != "trainaug":  # not part of VOC
            yield Fault(path, "is missing; the published data set has it: prepare with --again")

"""The files of Pascal VOC 2007 and 2012 (host.robots.ox.ac.uk/pascal/VOC), and of any folder in their layout."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Generator, Iterator, Sequence
from pathlib import Path

from mocodet.common.text import first_few, repeated

from .findings import Fault, Tally, count_faults
from .images import ImageJob, Size, box_fault, check_images, files_below, image_size

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
MASK_LABELS = frozenset((*range(len(CLASSES) + 1), 255))  # 255 is the rim of an object, and what is hard to tell
# Images in each list of ImageSets: VOC's pages "Database statistics", and arXiv 1412.7062 for trainaug.
COUNTS = {
    "VOC2007": {"Main/trainval": 5_011, "Main/test": 4_952},
    "VOC2012": {
        "Main/trainval": 11_540,
        **{"Segmentation/train": 1_464, "Segmentation/val": 1_449, "Segmentation/trainaug": 10_582},
    },
}
# The masks of the list trainaug, which is not part of VOC; those of the other lists are in SegmentationClass.
TRAINAUG_MASKS = "SegmentationClassAug"


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of VOC2007 and VOC2012 below ``root``, of both or of the one that is there.

    Args:
        root: the folder of the data sets.
        tally: gets what was looked at.
        any_size: do not compare the numbers of images with the published ones.
        workers: processes that decode images; 0: this one does.
    """
    years = [year for year in COUNTS if (root / year).is_dir()]
    if not years:
        yield Fault(root, "holds neither VOC2007 nor VOC2012; prepare them, or name the folder above them with --root")
    for year in years:
        yield from check_layout(root / year, CLASSES, tally, workers=workers)
        for split, number in COUNTS[year].items():
            path = list_file(root / year, split)
            if split.endswith("trainaug") and not path.is_file():
                tally.notes.append(f"{root / year} has no trainaug list, which semantic segmentation trains on")
            elif not any_size and path.is_file():
                yield from count_faults(path, "images", len(_read_list(path)[0]), number)
            elif not any_size:
                yield Fault(path, "is missing; the published data set has it: prepare with --again")


def list_file(folder: Path, split: str) -> Path:
    """Return the file that lists the images of a split such as ``Segmentation/train``."""
    return folder / "ImageSets" / f"{split}.txt"


def check_layout(folder: Path, classes: Sequence[str], tally: Tally, *, workers: int = 0) -> Iterator[Fault]:
    """Yield the faults of one folder in VOC's layout: Annotations, ImageSets/Main, JPEGImages.

    Looked at are the images that the lists of ``ImageSets/Main`` and ``ImageSets/Segmentation`` name. Lists called
    ``<class>_<split>.txt`` are VOC's classification task and not looked at.
    """
    absent = [name for name in ("Annotations", "ImageSets/Main", "JPEGImages") if not (folder / name).is_dir()]
    if absent:
        yield from (Fault(folder / name, "is missing; VOC's layout has it") for name in absent)
        return
    lists = _lists(folder / "ImageSets" / "Main", classes)
    if not lists:
        yield Fault(folder / "ImageSets" / "Main", "holds no list of images, such as trainval.txt")
    listed: dict[str, Path] = {}  # each image, and the first list that names it
    for path in lists:
        names, faults = _read_list(path)
        yield from faults
        for name in names:
            listed.setdefault(name, path)
    pictures = {Path(name).stem for name in files_below(folder / "JPEGImages", ".jpg")}
    jobs = []
    for name, path in listed.items():
        size = yield from _annotation_faults(_annotation(folder, name), name, path, classes, tally)
        if name in pictures:
            jobs.append(ImageJob(_image(folder, name), size))
    annotated = {Path(file).stem for file in files_below(folder / "Annotations", ".xml")}
    for name in sorted(annotated - pictures - listed.keys()):
        what = f"has no image JPEGImages/{name}.jpg; fetch the image or remove the file"
        yield Fault(_annotation(folder, name), what)
    for name in sorted(listed.keys() - pictures):
        yield Fault(_image(folder, name), f"is missing, and {listed[name]} names it; fetch it or take it off the list")
    jobs += yield from _mask_jobs(folder, classes, listed)
    yield from check_images(jobs, tally, workers)
    if others := len(pictures - listed.keys()):
        tally.notes.append(f"{folder}: {others:,} images are in no list of ImageSets/Main")


def _image(folder: Path, name: str) -> Path:
    return folder / "JPEGImages" / f"{name}.jpg"


def _annotation(folder: Path, name: str) -> Path:
    return folder / "Annotations" / f"{name}.xml"


def _lists(folder: Path, classes: Sequence[str]) -> list[Path]:
    """List the lists of images; those of one class, ``cat_trainval.txt``, which say 1, 0 or -1 of each, are none."""
    prefixes = tuple(f"{name}_" for name in classes)
    return [
        file
        for file in sorted(folder.glob("*.txt"))
        if not (file.name.startswith(prefixes) and file.read_bytes().split()[1:2] in ([b"1"], [b"0"], [b"-1"]))
    ]


def _read_list(path: Path) -> tuple[list[str], list[Fault]]:
    """Read a list of image names, one a line; return the names, each once, and what is wrong with the list."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        return [], [Fault(path, f"is not text in UTF-8 ({error}); write it anew, one image name a line")]
    names = [words[0] for words in lines if len(words) == 1]
    faults = [f"must hold one image name a line, found {' '.join(words)!r}" for words in lines if len(words) > 1]
    faults += [f"names {name} more than once; remove the repetitions" for name in repeated(names)]
    if not lines:
        faults.append("names no image; a split without images can be neither trained nor tested on")
    return list(dict.fromkeys(names)), [Fault(path, what) for what in faults]


def _annotation_faults(
    path: Path, name: str, split: Path, classes: Sequence[str], tally: Tally
) -> Generator[Fault, None, Size | None]:
    """Yield the faults of the XML file of image ``name``, which is on the list ``split``; return the size it gives."""
    if not path.is_file():
        yield Fault(path, f"is missing, and {split} names its image; fetch it or take {name} off the list")
        return None
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: of the encoding that it names
        yield Fault(path, f"is not XML ({error}); unpack its archive with --again, or fetch it again")
        return None
    tally.counts["annotation files"] += 1
    sides = [tree.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    width, height = (int(side) if re.fullmatch(r"\d{1,9}", side) else 0 for side in sides)
    size = (width, height) if width and height else None
    if size is None:
        yield Fault(path, "lacks <size> with a <width> and a <height> that are whole numbers above 0")
    filename = tree.findtext("filename")
    if filename is not None and Path(filename.strip()).stem != name:
        yield Fault(path, f"says that it is about {filename.strip()}; its own image is {name}.jpg")
    for number, node in enumerate(tree.findall("object"), start=1):
        tally.counts["objects"] += 1
        yield from (Fault(path, f"object {number} {what}") for what in _object_faults(node, classes, size))
    return size


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
    sides = ("xmin", "ymin", "xmax", "ymax")
    try:
        xmin, ymin, xmax, ymax = (float(node.findtext(f"bndbox/{side}", "")) for side in sides)
    except ValueError:
        yield "lacks a <bndbox> with the numbers <xmin>, <ymin>, <xmax> and <ymax>"
        return
    # VOC counts pixels from 1 and includes the last one.
    if fault := box_fault((xmin - 1, ymin - 1, xmax, ymax), size):
        yield f"({name}): the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g} {fault}"


def _mask_jobs(
    folder: Path, classes: Sequence[str], looked_at: Container[str]
) -> Generator[Fault, None, list[ImageJob]]:
    """List the masks that ``ImageSets/Segmentation`` asks for; yield what is wrong with those lists.

    Of a missing image that is ``looked_at`` anyway nothing is said again.
    """
    jobs: dict[Path, ImageJob] = {}
    for split in _lists(folder / "ImageSets" / "Segmentation", classes):
        names, faults = _read_list(split)
        yield from faults
        for name in names:
            mask = folder / (TRAINAUG_MASKS if split.stem == "trainaug" else "SegmentationClass") / f"{name}.png"
            size = image_size(_image(folder, name))
            if size is None and name not in looked_at:
                yield Fault(_image(folder, name), f"is missing or no image, and {split} names it; fetch it")
            elif not mask.is_file():
                yield Fault(mask, f"is missing, and {split} names it; prepare with --again")
            else:
                jobs[mask] = ImageJob(mask, size, "its image", MASK_LABELS)
    return list(jobs.values())

"""Checks of Pascal VOC 2007 and 2012 (host.robots.ox.ac.uk/pascal/VOC) and of other folders in their layout."""

from collections.abc import Container, Generator, Iterator, Sequence
from pathlib import Path

from mocodet.common.formats.findings import Finding
from mocodet.common.formats.image import stem_of
from mocodet.common.formats.lists import LABELS, read_list
from mocodet.common.formats.voc_folder import (
    VocFolder,
    VocImage,
    choose_classes,
    class_findings,
    fraction_findings,
    missing_image,
)

from .findings import Fault, Tally, count_faults
from .images import ImageJob, check_images, known_size

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
MASK_LABELS = frozenset((*range(len(CLASSES) + 1), 255))  # 255 marks object borders and ambiguous regions
# Number of images in each list of ImageSets, from VOC's "Database statistics" pages and, for trainaug, arXiv 1412.7062.
COUNTS = {
    "VOC2007": {"Main/trainval": 5_011, "Main/test": 4_952},
    "VOC2012": {
        "Main/trainval": 11_540,
        **{"Segmentation/train": 1_464, "Segmentation/val": 1_449, "Segmentation/trainaug": 10_582},
    },
}
# Masks for the list trainaug, which is not part of VOC; the masks for other lists are in SegmentationClass.
TRAINAUG_MASKS = "SegmentationClassAug"


def check(root: Path, tally: Tally, *, any_size: bool = False, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in VOC2007 and VOC2012 below ``root``, in both or in the one that exists.

    Args:
        root: folder that contains the data sets.
        tally: counts what was checked.
        any_size: do not compare the numbers of images with the published numbers.
        workers: number of processes that decode images; 0 decodes them in the calling process.
    """
    years = [year for year in COUNTS if (root / year).is_dir()]
    if not years:
        yield Fault(
            root, "contains neither VOC2007 nor VOC2012; prepare them, or set --root to the folder that contains them"
        )
    for year in years:
        folder = VocFolder(root / year)
        yield from check_layout(root / year, CLASSES, tally, workers=workers)
        for split, number in COUNTS[year].items():
            path = folder.list_file(split)
            if split.endswith("trainaug") and not path.is_file():
                tally.notes.append(
                    f"{root / year} has no trainaug list, which is the training set for semantic segmentation"
                )
            elif not any_size and path.is_file():
                yield from count_faults(path, "images", len(read_list(path, folder.knows)[0]), number)
            elif not any_size:
                yield Fault(path, "is missing, but part of the published data set; run prepare-data with --again")


def list_file(folder: Path, split: str) -> Path:
    """Return the path of the image list for a split such as ``Segmentation/train``."""
    return VocFolder(folder).list_file(split)


def check_layout(
    root: Path, classes: Sequence[str], tally: Tally, *, lists: Sequence[Path] = (), workers: int = 0
) -> Iterator[Finding]:
    """Yield the findings in one folder in VOC layout: Annotations, ImageSets/Main, JPEGImages.

    The check covers the images in the lists of ``ImageSets/Main`` and ``ImageSets/Segmentation``. Without
    ``ImageSets/Main`` and ``lists``, it covers all images that have an XML file. Lists named ``<class>_<split>.txt``
    belong to VOC's classification task and are not read.

    Args:
        root: the folder.
        classes: classes of the objects to check.
        tally: counts what was checked.
        lists: additional lists of images.
        workers: number of processes that decode images; 0 decodes them in the calling process.
    """
    folder = VocFolder(root)
    if folder.absent:
        yield from (Fault(path, "is missing, but required by VOC's layout") for path in folder.absent)
        return
    listing = root / "ImageSets" / "Main"
    lists = [*lists, *_lists(listing, classes)]
    if not lists and listing.is_dir():
        yield Fault(listing, "contains no list of images, such as trainval.txt")
    elif not lists:
        tally.notes.append(
            f"{root} has no lists of images; set SPLIT to the path of a list, or divide the images with HOLD_OUT"
        )
    images: dict[str, VocImage] = {}  # by name
    jobs = []
    of_boxes: list[Finding] = []
    for path in lists or ([] if listing.is_dir() else [folder.annotations.root]):
        if path.is_dir():
            names = sorted(folder.labelled)
            if not names:
                yield folder.no_annotations()
        else:
            names, findings = read_list(path, folder.knows)
            yield from findings
        for name in names:
            if name not in images:
                images[name] = yield from _image_findings(folder, name, path, tally)
                if (picture := images[name].image) is not None:
                    jobs.append(ImageJob(picture, images[name].annotation.size))
        of_boxes += fraction_findings([images[name] for name in names], folder.annotations.root)
        split = choose_classes([images[name] for name in names], [], path, classes)
        yield from class_findings(split, classes)
        all_read = names and all(map(folder.annotations.find, names))
        if all_read and not any(image.annotation.count for image in split.images):
            yield Fault(path, "lists no images with objects for training or evaluation; label some images")
    yield from dict.fromkeys(of_boxes)  # several lists may contain the same images
    yield from folder.shared_images(images)
    for name in sorted(folder.labelled - folder.images.names() - images.keys()):
        what = (
            f"has no image {folder.images.root.name}/{name} with any image suffix; add the image, or remove this file"
        )
        yield Fault(folder.annotation_file(name), what)
    jobs += yield from _mask_jobs(folder, classes, images)
    yield from check_images(jobs, tally, workers)
    if others := len(folder.other_images(images)):
        state = "are not in any list of ImageSets/Main" if lists else "have no XML file"
        tally.notes.append(f"{root}: {others:,} images {state}")


def _image_findings(folder: VocFolder, name: str, listed: Path, tally: Tally) -> Generator[Finding, None, VocImage]:
    """Yield the findings about an image and in its XML file, without decoding the image; return the image."""
    image, findings = folder.read_image(name, listed)
    yield from findings
    file = folder.annotation_file(name)
    tally.counts["annotation files"] += bool(folder.annotations.find(name))
    tally.counts["objects"] += image.annotation.count
    if missing := missing_image(folder, image, listed):
        yield missing
    filename = image.annotation.filename.replace("\\", "/").rpartition("/")[2]
    own = (image.image is not None and stem_of(image.image.name)) or name
    if filename and own not in (filename, stem_of(filename)):
        yield Finding("note", file, "", f"specifies {filename} in <filename>", f"treated as the XML file of {own}")
    return image


def _lists(folder: Path, classes: Sequence[str]) -> list[Path]:
    """Return the lists of images, except per-class lists such as ``cat_trainval.txt``, with 1, 0 or -1 per image."""
    prefixes = tuple(f"{name}_" for name in classes)
    labels = {label.encode() for label in LABELS}
    return [
        file
        for file in sorted(folder.glob("*.txt"))
        if not (file.name.startswith(prefixes) and labels & set(file.read_bytes().split()[1:2]))
    ]


def _mask_jobs(
    folder: VocFolder, classes: Sequence[str], looked_at: Container[str]
) -> Generator[Finding, None, list[ImageJob]]:
    """Return the masks listed in ``ImageSets/Segmentation``; yield the errors in these lists.

    A missing image in ``looked_at`` is not reported again.
    """
    jobs: dict[Path, ImageJob] = {}
    for split in _lists(folder.root / "ImageSets" / "Segmentation", classes):
        names, findings = read_list(split, folder.knows)
        yield from findings
        for name in names:
            pictures = folder.images.find(name)
            mask = folder.root / (TRAINAUG_MASKS if split.stem == "trainaug" else "SegmentationClass") / f"{name}.png"
            size = known_size(pictures[0]) if pictures else None
            if size is None and name not in looked_at:
                what = f"is missing or not an image, but {split} lists it; add the image"
                yield Fault(folder.images.root / name, what)
            elif not mask.is_file():
                yield Fault(mask, f"is missing, but {split} lists it; run prepare-data with --again")
            else:
                jobs[mask] = ImageJob(mask, size, "its image", MASK_LABELS)
    return list(jobs.values())

"""Label images for semantic segmentation: the meaning of their values, their images, and counts of pixels."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image

from mocodet.common.progress import progress
from mocodet.common.text import first_few

from .findings import Finding, merged
from .image import Size, image_size, image_suffixes, open_file, size_fault, unreadable
from .lists import NamedFiles, read_list

LABEL_SUFFIX = ".png"
INDEX_MODES = ("L", "P")  # 8-bit grey and 8-bit palette; Pillow gives the indices of both
IGNORED = 255

# Share of all pixels; VOC's outlines are 5 %, and Cityscapes ignores about 12 %.
MAX_IGNORED = 0.5

READERS = 8  # threads that decode images


@dataclass(frozen=True)
class Meaning:
    """The meaning of the values of label images.

    Attributes:
        classes: names, in the order of the model's indices.
        ignore: the value of pixels that are neither learned nor evaluated.
        values: the value of each class; empty: its index. If given, values of no class are ignored; otherwise they are
            errors. A value of a class is not ignored.
        max_ignored: the largest share of all pixels that may be ignored.
    """

    classes: tuple[str, ...]
    ignore: int = IGNORED
    values: tuple[int, ...] = ()
    max_ignored: float = MAX_IGNORED

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of the classes by their values, without an ignored class."""
        pairs = zip(self.values or range(len(self.classes)), self.classes, strict=True)
        return {value: name for value, name in pairs if self.values or value != self.ignore}

    def check(self) -> None:
        """Check that the values are 8-bit labels, and that they match the classes.

        Raises:
            ValueError: they do not.
        """
        if len(self.classes) == 1:
            raise ValueError(
                f"CLASSES has {self.classes[0]} alone, which every pixel is then of: name the background too"
            )
        if not 0 <= self.ignore <= 255:
            raise ValueError(f"IGNORE is a value of 8-bit labels, 0 to 255, got {self.ignore}")
        sound = len(set(self.values)) == len(self.values) and all(0 <= value <= 255 for value in self.values)
        if self.values and not (sound and len(self.values) == len(self.classes)):
            wanted = f"{len(self.classes)} different values of 8-bit labels, 0 to 255, one for each of CLASSES"
            raise ValueError(f"VALUES must be {wanted}, or is left out; got {list(self.values)}")
        if not 0 <= self.max_ignored <= 1:
            what = "the part of all pixels that may be ignored"
            raise ValueError(f"MAX_IGNORED is {what}, 0 to 1, got {self.max_ignored}")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labels.

    Attributes:
        name: its name in lists, without suffix.
        image: its file.
        labels: the file of its labels.
    """

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Counts:
    """Counts over label images.

    Attributes:
        pixels: number of pixels with each of the 256 values.
        files: number of label images.
        findings: errors of single files, and a note on those that are mostly ignored.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    files: int = 0
    findings: tuple[Finding, ...] = ()


def read_values(path: str | Path) -> np.ndarray:
    """Read a label image: H x W, uint8.

    Palette images, such as VOC's, give the indices; detectron2's own reader would turn their colours into grey.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or neither an 8-bit palette nor a grey image.
    """
    try:
        with open_file(path) as handle, Image.open(handle) as image:
            mode = image.mode
            values = np.array(image) if mode in INDEX_MODES else None
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise ValueError(unreadable(path, error)) from error
    if values is None:
        raise ValueError(
            f"{path} has the mode {mode}; labels must be an 8-bit palette or grey image (mode P or L) whose pixels are"
            " class indices"
        )
    return values


def read_labels(path: str | Path, num_classes: int, ignore_label: int, values: Sequence[int] = ()) -> np.ndarray:
    """Read a label image as class indices.

    Args:
        path: an 8-bit palette or grey image.
        num_classes: indices must be below this number.
        ignore_label: the only other index that may occur.
        values: the value of each class in the file, as in `Meaning`.

    Returns:
        H x W, uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, is not an 8-bit image of indices, or holds a value that is not a class.
    """
    try:
        labels = read_values(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no label image {path}") from None
    if values:
        table = np.full(256, ignore_label, np.uint8)
        table[list(values)] = np.arange(len(values))
        return table[labels]
    if fault := _unknown(_count(labels), {*range(num_classes), ignore_label}, num_classes, ignore_label):
        raise ValueError(f"{path} {fault}")
    return labels


def check_same_size(label_file: str, labels: Sequence[int], file: str, image: Sequence[int]) -> None:
    """Check that labels, (height, width), have the size of their image.

    Raises:
        ValueError: they differ; the message names both files.
    """
    if tuple(labels) != tuple(image):
        (height, width), (image_height, image_width) = labels, image
        raise ValueError(
            f"{label_file} has {width} x {height} pixels, but its image {file} has {image_width} x {image_height}"
        )


def find_labelled_images(
    images: Path, labels: Path, split: Path | None = None
) -> tuple[list[LabelledImage], list[Finding]]:
    """Pair the images of a folder with their labels, which have the same names and the suffix ``.png``.

    Args:
        images: folder of images, with any suffix that Pillow reads.
        labels: folder of the label images.
        split: file that names the images, one per line; None: every image of the folder.

    Returns:
        the pairs, in the order of the list or of the names; an error for each image that is not among them.

    Raises:
        FileNotFoundError: there is no such list.
    """
    files, findings = NamedFiles(images, image_suffixes()), []
    if split is None:
        names = sorted(files.names())
        if not names:
            what = "holds no image (.jpg, .png, ...): the data set is empty"
            findings.append(Finding("error", images, "", what, "name the folder that holds the images"))
    else:
        names, findings = read_list(split, lambda image: bool(files.find(image)))
    found = []
    for name in names:
        paths, label = files.find(name), labels / f"{name}{LABEL_SUFFIX}"
        if not paths:
            what = f"is missing, with whatever suffix of an image, and {split} names it"
            findings.append(Finding("error", images / name, "", what, f"restore it, or remove {name} from the list"))
        elif len(paths) > 1:
            what = f"share the labels {label.name} and differ in nothing but their suffix"
            record = first_few([path.name for path in paths])
            findings.append(Finding("error", images, record, what, "remove all but one"))
        elif not label.is_file():
            what = f"is missing, and {paths[0]} needs it"
            findings.append(Finding("error", label, "", what, "write it, or remove the image"))
        else:
            found.append(LabelledImage(name, paths[0], label))
    return found, findings


def count_labels(images: Sequence[LabelledImage], meaning: Meaning) -> Counts:
    """Read the labels of some images, in threads, and compare their sizes with the images'."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(partial(count_label_image, meaning=meaning), images)
        return join_counts(progress(found, "label image", len(images)))


def join_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of the counts of several parts of a data set."""
    pixels, files = np.zeros(256, np.int64), 0
    findings: list[Finding] = []
    for part in parts:
        pixels += part.pixels
        files += part.files
        findings += part.findings
    return Counts(pixels, files, tuple(merged(findings)))


def count_label_image(image: LabelledImage, meaning: Meaning) -> Counts:
    """Read the labels of one image; see `count_labels`."""
    try:
        values = read_values(image.labels)
    except (OSError, ValueError) as error:
        what = str(error).removeprefix(f"{image.labels} ") if isinstance(error, ValueError) else "is missing"
        return Counts(findings=(Finding("error", image.labels, "", what, ""),))
    findings = []
    size: Size = values.shape[1], values.shape[0]
    expected = size
    try:
        expected = image_size(image.image)
    except (OSError, ValueError) as error:
        findings.append(Finding("error", image.image, "", str(error).removeprefix(f"{image.image} "), ""))
    if size != expected:
        findings.append(size_fault(image.labels, size, expected, f"its image {image.image.name}"))
    pixels = _count(values)
    known = {*meaning.names, meaning.ignore}
    if not meaning.values and (fault := _unknown(pixels, known, len(meaning.classes), meaning.ignore)):
        findings.append(
            Finding("error", image.labels, "", fault, "correct it, or give VALUES, one for each of CLASSES")
        )
    if meaning.ignore not in meaning.names and pixels[meaning.ignore] > values.size / 2:
        what = f"is ignored (value {meaning.ignore}) in more than half of its pixels"
        findings.append(Finding("note", image.labels, "", what, ""))
    return Counts(pixels, 1, tuple(findings))


def judge_labels(counts: Counts, folder: Path, meaning: Meaning, *, learned: bool) -> Iterator[Finding]:
    """Compare the counts over label images with the meaning of their values; errors of single files come last.

    Args:
        counts: counts over all label images of a data set.
        folder: the folder of these images.
        meaning: the meaning of their values.
        learned: the images are for training, which needs pixels of every class; for evaluation a class may be absent.
    """
    total = int(counts.pixels.sum())
    if total:
        of = f"in its {counts.files:,} label images, whose values are {_shares(counts.pixels, meaning)}"
        absent = [value for value in meaning.names if not counts.pixels[value]]
        if absent:
            names = first_few([f"{meaning.names[value]!r} (value {value})" for value in absent])
            what = f"has no pixel of {'class' if len(absent) == 1 else 'classes'} {names} {of}"
            remedy = _remedy(counts.pixels, meaning) if learned else "it is left out of the mean IoU"
            yield Finding("error" if learned else "note", folder, "", what, remedy)
        ignored = [] if meaning.ignore in meaning.names else [meaning.ignore]
        left_out = [value for value in range(256) if value not in (*meaning.names, *ignored)]
        left_out = left_out if meaning.values else []  # else they are errors
        if counts.pixels[ignored + left_out].sum() / total > meaning.max_ignored:
            what = f"is ignored in more than {meaning.max_ignored:.0%} of the pixels {of}"
            remedy = "if an ignored value is a class, give VALUES, one for each of CLASSES; else set MAX_IGNORED 1"
            yield Finding("error", folder, "", what, remedy)
        if counts.pixels[left_out].any():
            found = [f"{value} ({counts.pixels[value]:,} pixels)" for value in left_out if counts.pixels[value]]
            yield Finding(
                "note", folder, "", f"has values that VALUES leaves out: {first_few(found)}", "they are ignored"
            )
    yield from counts.findings


def _shares(pixels: np.ndarray, meaning: Meaning) -> str:
    """Format the values that occur, their shares, and which of them is ignored."""
    found = [int(value) for value in np.argsort(-pixels, kind="stable") if pixels[value]]
    ignored = {} if meaning.ignore in meaning.names else {meaning.ignore: "ignored"}
    told = {value: meaning.names.get(value) or ignored.get(value, "no class") for value in found}
    return first_few([f"{value} ({100 * pixels[value] / pixels.sum():.3g} %, {told[value]})" for value in found], 8)


def _remedy(pixels: np.ndarray, meaning: Meaning) -> str:
    found = np.flatnonzero(pixels).tolist()
    if len(found) == len(meaning.classes):
        return f"if the values stand for CLASSES in this order, add VALUES: {found}; else correct labels or CLASSES"
    return "correct the labels, take it out of CLASSES, or say by VALUES what stands for each of CLASSES"


def _count(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=256)


def _unknown(pixels: np.ndarray, known: set[int], num_classes: int, ignore: int) -> str:
    """Name the unknown values that occur, if any."""
    unknown = [str(value) for value in np.flatnonzero(pixels) if value not in known]
    if not unknown:
        return ""
    return (
        f"holds the label {first_few(unknown)}; labels must be below the number of classes, {num_classes}, or {ignore},"
        " which is ignored"
    )

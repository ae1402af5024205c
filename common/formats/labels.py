"""Label images for semantic segmentation: the meaning of their values, the images they label, and pixel counts."""

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
INDEX_MODES = ("L", "P")  # 8-bit greyscale and 8-bit palette; Pillow returns the indices for both
IGNORED = 255

# Fraction of all pixels; VOC's outlines cover 5 %, and Cityscapes ignores about 12 %.
MAX_IGNORED = 0.5

READERS = 8  # threads that decode images


@dataclass(frozen=True)
class Meaning:
    """The meaning of the values in label images.

    Attributes:
        classes: class names, in the order of the model's class indices.
        ignore: value of the pixels that are excluded from training and evaluation.
        values: value of each class; empty means that the value of a class is its index. If given, values that belong to
            no class are ignored; otherwise they are errors. The value of a class is never ignored.
        max_ignored: maximum fraction of all pixels that may be ignored.
    """

    classes: tuple[str, ...]
    ignore: int = IGNORED
    values: tuple[int, ...] = ()
    max_ignored: float = MAX_IGNORED

    @cached_property
    def names(self) -> dict[int, str]:
        """Class names by value, without an ignored class."""
        pairs = zip(self.values or range(len(self.classes)), self.classes, strict=True)
        return {value: name for value, name in pairs if self.values or value != self.ignore}

    def check(self) -> None:
        """Check that the values are 8-bit labels and match the classes.

        Raises:
            ValueError: the values are invalid or do not match the classes.
        """
        if len(self.classes) == 1:
            raise ValueError(
                f"CLASSES contains only {self.classes[0]}, so every pixel would belong to it; add a background class"
            )
        if not 0 <= self.ignore <= 255:
            raise ValueError(f"IGNORE must be a value of 8-bit labels, 0 to 255; got {self.ignore}")
        # With VALUES, labels are converted to indices, and IGNORED is the index of ignored pixels.
        most = 255 if self.values or self.ignore == IGNORED else 256
        if len(self.classes) > most:
            meant = f", and {IGNORED} means ignored" if most == 255 else ""
            raise ValueError(
                f"CLASSES contains {len(self.classes)} classes, but labels have 8 bits{meant}; expected at most {most}"
                " classes"
            )
        sound = len(set(self.values)) == len(self.values) and all(0 <= value <= 255 for value in self.values)
        if self.values and not (sound and len(self.values) == len(self.classes)):
            wanted = f"{len(self.classes)} distinct values of 8-bit labels, 0 to 255, one for each of CLASSES"
            raise ValueError(f"VALUES must be omitted or contain {wanted}; got {list(self.values)}")
        if not 0 <= self.max_ignored <= 1:
            what = "the fraction of all pixels that may be ignored"
            raise ValueError(f"MAX_IGNORED, {what}, must be between 0 and 1; got {self.max_ignored}")


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labels.

    Attributes:
        name: the image's name in lists, without suffix.
        image: the image file.
        labels: the label image.
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
        findings: errors in individual files, and a note about files that are mostly ignored.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    files: int = 0
    findings: tuple[Finding, ...] = ()


def read_values(path: str | Path) -> np.ndarray:
    """Read a label image as an H x W uint8 array.

    Palette images, such as VOC's, are read as indices, whereas detectron2's own reader would convert their colours to
    greyscale.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the image is damaged, or is neither an 8-bit palette nor an 8-bit greyscale image.
    """
    try:
        with open_file(path) as handle, Image.open(handle) as image:
            mode = image.mode
            values = np.array(image) if mode in INDEX_MODES else None
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # decoders raise almost any exception for damaged data
        raise ValueError(unreadable(path, error)) from error
    if values is None:
        raise ValueError(
            f"{path} has the mode {mode}; labels must be 8-bit palette or greyscale images (mode P or L) whose pixels"
            " are class indices"
        )
    return values


def read_labels(path: str | Path, num_classes: int, ignore_label: int, values: Sequence[int] = ()) -> np.ndarray:
    """Read a label image as class indices.

    Args:
        path: an 8-bit palette or greyscale image.
        num_classes: number of classes; every index must be below it.
        ignore_label: the only other index allowed.
        values: value of each class in the file, as in `Meaning`.

    Returns:
        H x W, uint8.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the image is damaged, is not an 8-bit image of indices, or contains a value that is not a class.
    """
    try:
        labels = read_values(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"label image {path} does not exist") from None
    if values:
        table = np.full(256, ignore_label, np.uint8)
        table[list(values)] = np.arange(len(values))
        return table[labels]
    if fault := _unknown(_count(labels), {*range(num_classes), ignore_label}, num_classes, ignore_label):
        raise ValueError(f"{path} {fault}")
    return labels


def check_same_size(label_file: str, labels: Sequence[int], file: str, image: Sequence[int]) -> None:
    """Check that labels, (height, width), have the same size as their image.

    Raises:
        ValueError: the sizes differ; the message names both files.
    """
    if tuple(labels) != tuple(image):
        (height, width), (image_height, image_width) = labels, image
        raise ValueError(
            f"{label_file} has {width} x {height} pixels, but its image {file} has {image_width} x {image_height}"
        )


def find_labelled_images(
    images: Path, labels: Path, split: Path | None = None
) -> tuple[list[LabelledImage], list[Finding]]:
    """Pair the images in a folder with their label images, which have the same names and the suffix ``.png``.

    Args:
        images: folder of images, with any suffix that Pillow supports.
        labels: folder of label images.
        split: file that lists the images, one per line; None selects every image in the folder.

    Returns:
        the pairs, in the order of the list or of the names; and an error for each image without a pair.

    Raises:
        FileNotFoundError: the list does not exist.
    """
    files, findings = NamedFiles(images, image_suffixes()), []
    if split is None:
        names = sorted(files.names())
        if not names:
            what = "contains no images (.jpg, .png, ...), so the data set is empty"
            findings.append(Finding("error", images, "", what, "specify the folder that contains the images"))
    else:
        names, findings = read_list(split, lambda image: bool(files.find(image)))
    found = []
    for name in names:
        paths, label = files.find(name), labels / f"{name}{LABEL_SUFFIX}"
        if not paths:
            what = f"is missing with any image suffix, but {split} lists it"
            findings.append(
                Finding("error", images / name, "", what, f"restore the image, or remove {name} from the list")
            )
        elif len(paths) > 1:
            what = f"share the label image {label.name}, because they differ only in their suffix"
            record = first_few([path.name for path in paths])
            findings.append(Finding("error", images, record, what, "remove all but one"))
        elif not label.is_file():
            what = f"is missing, but {paths[0]} needs it"
            findings.append(Finding("error", label, "", what, "create it, or remove the image"))
        else:
            found.append(LabelledImage(name, paths[0], label))
    return found, findings


def count_labels(images: Sequence[LabelledImage], meaning: Meaning) -> Counts:
    """Read the labels of images in threads, and compare their sizes with the image sizes."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(partial(count_label_image, meaning=meaning), images)
        return join_counts(progress(found, "label image", len(images)))


def join_counts(parts: Iterable[Counts]) -> Counts:
    """Return the sum of the counts over multiple parts of a data set."""
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
            Finding("error", image.labels, "", fault, "correct the labels, or set VALUES, one for each of CLASSES")
        )
    if meaning.ignore not in meaning.names and pixels[meaning.ignore] > values.size / 2:
        what = f"has the ignored value {meaning.ignore} in more than half of its pixels"
        findings.append(Finding("note", image.labels, "", what, ""))
    return Counts(pixels, 1, tuple(findings))


def judge_labels(counts: Counts, folder: Path, meaning: Meaning, *, learned: bool) -> Iterator[Finding]:
    """Compare the counts over label images with the meaning of their values; errors in individual files come last.

    Args:
        counts: counts over all label images in a data set.
        folder: folder of the label images.
        meaning: meaning of the values.
        learned: whether the images are for training, which requires pixels of every class; evaluation allows missing
            classes.
    """
    total = int(counts.pixels.sum())
    if total:
        of = f"in its {counts.files:,} label images, whose values are {_shares(counts.pixels, meaning)}"
        absent = [value for value in meaning.names if not counts.pixels[value]]
        if absent:
            names = first_few([f"{meaning.names[value]!r} (value {value})" for value in absent])
            what = f"has no pixels of {'class' if len(absent) == 1 else 'classes'} {names} {of}"
            remedy = _remedy(counts.pixels, meaning) if learned else "excluded from the mean IoU"
            yield Finding("error" if learned else "note", folder, "", what, remedy)
        ignored = [] if meaning.ignore in meaning.names else [meaning.ignore]
        left_out = [value for value in range(256) if value not in (*meaning.names, *ignored)]
        left_out = left_out if meaning.values else []  # else they are errors
        if counts.pixels[ignored + left_out].sum() / total > meaning.max_ignored:
            what = f"has an ignored value in more than {meaning.max_ignored:.0%} of the pixels {of}"
            remedy = "if an ignored value is a class, set VALUES, one for each of CLASSES; otherwise set MAX_IGNORED 1"
            yield Finding("error", folder, "", what, remedy)
        if counts.pixels[left_out].any():
            found = [f"{value} ({counts.pixels[value]:,} pixels)" for value in left_out if counts.pixels[value]]
            yield Finding(
                "note", folder, "", f"has values that are not in VALUES: {first_few(found)}", "they are ignored"
            )
    yield from counts.findings


def _shares(pixels: np.ndarray, meaning: Meaning) -> str:
    """Format the values that occur, with the share and the meaning of each value."""
    found = [int(value) for value in np.argsort(-pixels, kind="stable") if pixels[value]]
    ignored = {} if meaning.ignore in meaning.names else {meaning.ignore: "ignored"}
    told = {value: meaning.names.get(value) or ignored.get(value, "no class") for value in found}
    return first_few([f"{value} ({100 * pixels[value] / pixels.sum():.3g} %, {told[value]})" for value in found], 8)


def _remedy(pixels: np.ndarray, meaning: Meaning) -> str:
    found = np.flatnonzero(pixels).tolist()
    if len(found) == len(meaning.classes):
        values = f"if the values represent CLASSES in this order, set VALUES to {found}"
        return f"{values}; otherwise correct the labels or CLASSES"
    return "correct the labels, remove the class from CLASSES, or set VALUES to the value of each class"


def _count(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=256)


def _unknown(pixels: np.ndarray, known: set[int], num_classes: int, ignore: int) -> str:
    """Return an error that names the unknown values, or an empty string if there are none."""
    unknown = [str(value) for value in np.flatnonzero(pixels) if value not in known]
    if not unknown:
        return ""
    return (
        f"contains the label {first_few(unknown)}; labels must be below the number of classes, {num_classes}, or equal"
        f" to {ignore}, which is ignored"
    )

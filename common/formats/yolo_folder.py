"""Reader for data sets in YOLO layout, with or without ``data.yaml``: the images of a split and their label files."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import yaml

from mocodet.common.text import did_you_mean, first_few, repeated

from .coco import Coco, choose_classes
from .coco_values import Record
from .findings import Finding, Ledger, merged
from .hold_out import HoldOut
from .image import Size, image_size, image_suffixes, stem_of
from .lists import decode_text, lines_of, path_is
from .yolo import YoloLabels, YoloObject, read_label_file

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NO_LABELS = {
    "classes.txt",
    "train.txt",
    "val.txt",
    "valid.txt",
    "test.txt",
}  # text files among the labels that are not label files
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")
NOTHING = (None, "", "null", "~")  # empty values in YAML, where all values are read as text
SPLITS = ("train", "val", "test")
OTHER_NAMES = {"val": ("valid", "validation"), "valid": ("val", "validation"), "validation": ("val", "valid")}
IMAGES, LABELS = (
    "images",
    "labels",
)  # folders; replacing the last IMAGES in an image's path with LABELS gives its label file

READERS = 8  # threads that read files


@dataclass(frozen=True)
class YoloFolder:
    """The contents of a ``data.yaml`` file or, without one, of the folders themselves.

    Attributes:
        file: the ``data.yaml`` file, or the folder.
        root: the folder to which image ids are relative.
        names: class names, in the order of their indices.
        splits: the folders and lists of images in each split. Without ``data.yaml`` and folders of splits, the only
            split is named "".
        findings: errors and repairs.
    """

    file: Path
    root: Path
    names: tuple[str, ...] = ()
    splits: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def read_yolo(path: Path, split: str = "", classes: Sequence[str] = (), hold_out: HoldOut | None = None) -> Coco:
    """Read a split as if it were a file in COCO format: boxes, and polygons as masks, in pixels.

    The id of an image is its path relative to the data set's folder, without the suffix. The id of an annotation
    consists of the image's id and the line number.

    Args:
        path: a ``data.yaml`` file, or a folder that contains one, or a folder of ``images`` and ``labels``, or a folder
            of images and label files.
        split: name of the split in ``data.yaml`` or of its folder, such as ``train``; empty selects the only split.
        classes: names of the classes to keep, in this order; empty keeps all. If no file lists the class names, all
            names in the order of their indices.
        hold_out: divides a data set with a single split into train and test.

    Returns:
        the data set. Its ``findings`` contain at least one for each line of a label file that is not among the
        annotations.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: ``classes`` contains a name that matches no class.
    """
    folder = open_yolo(path)
    ledger = Ledger(folder.file)
    names = folder.names or tuple(classes)
    if not names and not any(finding.severity == "error" for finding in folder.findings):
        what = f"does not define class names, because neither data.yaml nor {' nor '.join(NAME_LISTS)} exists"
        ledger.error("", what, "create one of these files, or set CLASSES to all classes in the order of their indices")
    sources = _sources(folder, "" if hold_out else split, ledger)
    findings = [*folder.findings, *ledger.findings()]
    if any(finding.severity == "error" for finding in findings):
        return Coco(folder.file, findings=findings)
    takes = None if hold_out is None else partial(hold_out.takes, split=split)
    return choose_classes(_read_images(folder, sources, names, findings, takes), classes)


def open_yolo(path: Path) -> YoloFolder:
    """Read ``data.yaml``, or find the folders of splits and a list of classes.

    Raises:
        FileNotFoundError: the file or folder does not exist.
    """
    if path.is_file():
        return _described(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no data.yaml file or folder exists at {path}")
    described = [path / name for name in DESCRIPTIONS if (path / name).is_file()]
    described = described or sorted(file for file in path.glob("*.y*ml") if b"names" in file.read_bytes())
    return _described(described[0]) if described else _bare(path)


def folder_of(file: Path) -> Path:
    """Return the folder to which file names from `read_yolo` are relative; for ``file``, see `YoloFolder`."""
    return file if file.is_dir() else file.parent


def label_file(image: Path) -> Path:
    """Return an image's label file: its path with the last folder ``images`` replaced with ``labels``."""
    parts = list(image.parent.parts)
    if IMAGES in parts:
        parts[len(parts) - 1 - parts[::-1].index(IMAGES)] = LABELS
    return Path(*parts, f"{stem_of(image.name)}.txt")


def _described(file: Path) -> YoloFolder:
    """Read a ``data.yaml`` file."""
    ledger = Ledger(file)
    try:
        # Read all values as text, because a class may be named no or 1e3.
        content = yaml.load(decode_text(file.read_bytes()), yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        ledger.error(
            "", f"is not YAML ({' '.join(str(error).split())})", "write a mapping with path, train, val and names"
        )
        return YoloFolder(file, file.parent, findings=tuple(ledger.findings()))
    if not isinstance(content, dict) or "names" not in content:
        found = first_few([str(key) for key in content]) if isinstance(content, dict) else brief(content)
        ledger.error("", f"lacks the key names; found {found}", "add the class names, such as names: [cat, dog]")
        return YoloFolder(file, file.parent, findings=tuple(ledger.findings()))
    if content.get("kpt_shape"):
        ledger.error(
            "", "has kpt_shape, so its label files contain keypoints", "export them in COCO format (KIND: coco)"
        )
    names = _names(content, ledger)
    roots = _roots(file, content.get("path"), ledger)
    splits = {}
    for split in (*SPLITS, "valid", "validation"):
        given = content.get(split)
        entries = given if isinstance(given, list) else [] if given in NOTHING else [given]
        if not all(isinstance(entry, str) for entry in entries):
            ledger.error(split, f"is {brief(given)}", "specify one or more folders or lists of images")
        elif entries:
            splits[split] = [_place(entry, roots) for entry in entries]
    if not splits and not ledger.errors:
        ledger.error("", "defines no splits", "add a split, such as train: images/train")
    return YoloFolder(file, roots[0], names, splits, tuple(ledger.findings()))


def _names(content: Mapping[Any, Any], ledger: Ledger) -> tuple[str, ...]:
    given = content["names"]
    if isinstance(given, dict):
        if missing := [str(index) for index in range(len(given)) if str(index) not in given]:
            what = f"has {len(given)} entries, but lacks index {missing[0]}"
            ledger.error("names", what, "number the classes consecutively from 0")
            return ()
        given = [given[str(index)] for index in range(len(given))]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        ledger.error("names", f"is {brief(given)}", "list the class names, such as [cat, dog]")
        return ()
    names = tuple(" ".join(name.split()) for name in given)
    if same := repeated(names):
        ledger.error("names", f"has {first_few(same)} more than once", "class names must be unique")
    if (number := content.get("nc", str(len(names)))) != str(len(names)):
        ledger.error("nc", f"is {brief(number)}, but names has {len(names)} entries", "correct one of the two")
    return names


def _roots(file: Path, given: object, ledger: Ledger) -> list[Path]:
    """Return the folders to which splits may be relative, the most likely first."""
    beside = file.parent
    if given in NOTHING:
        return [beside]
    if not isinstance(given, str):
        ledger.error("path", f"is {brief(given)}", "set it to the folder of the data set, or remove it")
        return [beside]
    found = [folder for folder in (beside / given, Path(given)) if path_is(Path.is_dir, folder)]
    if not found:
        ledger.count(
            "repaired", f"path {given}", "does not exist", f"the folder that contains {file.name} is used instead"
        )
    return [*found, beside]


def _place(entry: str, roots: Sequence[Path]) -> Path:
    """Return the folder or list that an entry of a split refers to."""
    # Roboflow writes ../train/images for a folder next to data.yaml.
    entries = (entry, entry[3:]) if entry.startswith("../") else (entry,)
    places = [root / one for root in roots for one in entries]
    return next((place for place in places if path_is(Path.exists, place)), places[0])


def _bare(folder: Path) -> YoloFolder:
    """Find the splits in a folder without ``data.yaml``."""
    ledger = Ledger(folder)
    splits: dict[str, list[Path]] = {}
    for split in (*SPLITS, "valid", "validation"):
        places = folder / IMAGES / split, folder / split / IMAGES, folder / f"{split}.txt"
        if place := next(filter(Path.exists, places), None):
            splits[split] = [place]
    if not splits:
        splits = {"": [folder / IMAGES if (folder / IMAGES).is_dir() else folder]}
    names: tuple[str, ...] = ()
    for file in (folder / name for name in NAME_LISTS):
        if file.is_file() and not names:
            try:
                names = tuple(lines_of(file.read_bytes()))
            except UnicodeDecodeError as error:
                ledger.error(
                    file.name, f"is not UTF-8 text ({error.reason})", "save it as UTF-8 with one class per line"
                )
            if same := repeated(names):
                ledger.error(file.name, f"has {first_few(same)} more than once", "class names must be unique")
    return YoloFolder(folder, folder, names, splits, tuple(ledger.findings()))


def _sources(folder: YoloFolder, split: str, ledger: Ledger) -> Sequence[Path]:
    """Return the folders and lists of a split; record an error if the split does not exist."""
    known = folder.splits
    if not split and len(known) == 1:
        split = next(iter(known))
    called = next((name for name in (split, *OTHER_NAMES.get(split, ())) if name in known), None)
    if called is not None:
        return known[called]
    if known:
        what = f"has the splits {', '.join(known)}, but SPLIT is {split or 'not set'}"
        ledger.error("", what, f"set SPLIT to one of the splits{did_you_mean(split, known) if split else ''}")
    return []


@dataclass(frozen=True)
class _Read:
    """An image's size (None if it cannot be read), its labels, and its label file (None if there is none).

    ``fault`` is the error of an image that cannot be read.
    """

    size: Size | None
    labels: YoloLabels
    file: Path | None
    fault: Finding | None = None


def _read_images(
    folder: YoloFolder,
    sources: Sequence[Path],
    names: Sequence[str],
    findings: Sequence[Finding],
    takes: Callable[[str], bool] | None,
) -> Coco:
    """Read the selected images of ``sources`` and their labels; the result includes the previous ``findings``."""
    ledger = Ledger(folder.file)
    everything = _find_images(folder, sources, ledger)
    files = everything if takes is None else {name: file for name, file in everything.items() if takes(name)}
    if everything and not files:
        what = f"has {len(everything):,} images, but HOLD_OUT selects none of them for this split"
        ledger.error("", what, "change HOLD_OUT_SEED, or label more images")
    with ThreadPoolExecutor(READERS) as pool:
        read = dict(zip(files, pool.map(partial(_read_image, num_classes=len(names)), files.values()), strict=True))
    images, annotations = [], []
    for identity, one in read.items():
        if one.file is None:
            ledger.count("note", identity, "has no label file", "treated as an image without objects")
        if one.size is not None:
            size = {"width": one.size[0], "height": one.size[1]}
            images.append({"id": identity, "file_name": _file_name(files[identity], folder_of(folder.file)), **size})
            annotations += [_annotation(identity, labelled) for labelled in one.labels.objects]
    label_files = {one.file for one in read.values() if one.file is not None}
    if files and not label_files:
        looked_for = label_file(next(iter(files.values())))
        ledger.error(
            "",
            f"has no label file for any of its {len(files):,} images; expected files such as {looked_for}",
            "create them",
        )
    _note_boxes(annotations, ledger)
    found = [
        *findings,
        *ledger.findings(),
        *_without_image(sources, {label_file(image) for image in everything.values()}),
    ]
    for one in read.values():
        found += [one.fault] if one.fault else []
        found += one.labels.findings
    written = sum(one.labels.count for one in read.values())
    categories: list[Record] = [{"id": index, "name": name} for index, name in enumerate(names)]
    return Coco(
        folder.file, images, categories, annotations, findings=merged(found), refused=written - len(annotations)
    )


def _file_name(image: Path, folder: Path) -> str:
    """Return an image's path relative to a folder, or its absolute path if it is outside the folder."""
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image.absolute())


def _find_images(folder: YoloFolder, sources: Sequence[Path], ledger: Ledger) -> dict[str, Path]:
    """Find the images in folders and lists; return them by id, the path relative to the root without suffix."""
    files: dict[str, Path] = {}
    for source in sources:
        for image in _images_of(source, folder.root, ledger):
            identity = os.path.relpath(image.parent / stem_of(image.name), folder.root).replace(os.sep, "/")
            if files.setdefault(identity, image) != image:
                what = f"share the label file {label_file(image).name}, because they differ only in their suffix"
                ledger.error(first_few([files[identity].name, image.name]), what, "remove all but one")
    if not files and not ledger.errors:
        where = first_few([str(source) for source in sources])
        ledger.error("", f"has no images (.jpg, .png, ...) in {where}", "specify a folder that contains images")
    return files


def _images_of(source: Path, root: Path, ledger: Ledger) -> Iterator[Path]:
    """Yield the images below a folder or in a list."""
    if path_is(Path.is_dir, source):
        for folder, below, names in os.walk(source, followlinks=True):
            below.sort()
            for name in sorted(names):
                if name.lower().endswith(image_suffixes()) and not name.startswith("."):
                    yield Path(folder, name)
        return
    try:
        lines = lines_of(source.read_bytes())
    except UnicodeDecodeError as error:
        ledger.error(str(source), f"is not UTF-8 text ({error.reason})", "save it as UTF-8 with one image per line")
        return
    except (OSError, ValueError) as error:  # the path may be invalid
        reason = getattr(error, "strerror", None) or error
        ledger.error(str(source), f"is part of the split, but cannot be read ({reason})", "correct the path")
        return
    for line in repeated(lines):
        ledger.count("repaired", f"{source.name}: {line}", "is listed more than once", "used only once")
    for line in dict.fromkeys(lines):
        image = _listed(line, (source.parent, root))
        if image is None:
            ledger.error(
                f"{source.name}: {line[:200]}", "does not exist", "restore the image, or remove it from the list"
            )
        else:
            yield image


def _listed(line: str, folders: Sequence[Path]) -> Path | None:
    """Find the image in a line of a list: try its path, then drop leading folders until it exists in ``folders``."""
    text = line.replace("\\", "/")
    while text and text.lower().endswith(image_suffixes()):
        for folder in folders:
            if path_is(Path.is_file, folder / text):
                return Path(os.path.normpath(folder / text))
        text = text.partition("/")[2]
    return None


def _read_image(image: Path, num_classes: int) -> _Read:
    path = label_file(image)
    if not path.is_file() and image.with_name(path.name).is_file():
        path = image.with_name(path.name)  # both in one folder, below a folder that happens to be named images
    fault: Finding | None = None
    try:
        size = image_size(image)
    except (OSError, ValueError) as error:
        size, fault = None, Finding("error", image, "", str(error).removeprefix(f"{image} "), "")
    try:
        labels = read_label_file(path, size or (1, 1), num_classes)
    except FileNotFoundError:
        return _Read(size, YoloLabels(), None, fault)
    except OSError as error:
        unread = Finding("error", path, "", f"cannot be read ({error.strerror})", "create or download it again")
        return _Read(size, YoloLabels(findings=(unread,)), path, fault)
    return _Read(size, labels, path, fault)


def _annotation(image: str, one: YoloObject) -> Record:
    more = {"segmentation": [list(one.polygon)]} if one.polygon else {}
    return {
        "id": f"{image} line {one.line}",
        "image_id": image,
        "category_id": one.index,
        "bbox": list(one.box),
        "area": one.area,
        "iscrowd": 0,
        **more,
    }


def _note_boxes(annotations: Sequence[Record], ledger: Ledger) -> None:
    """Note objects that prevent mask training."""
    boxes = [one for one in annotations if "segmentation" not in one]
    for one in boxes if len(boxes) < len(annotations) else ():
        ledger.count(
            "note", one["id"], "has a box, although others have a polygon", "usable only with MODEL.MASK_ON False"
        )


def _without_image(sources: Sequence[Path], known: Collection[Path]) -> Iterator[Finding]:
    """Note label files without a matching image."""
    for source in sources:
        if path_is(Path.is_dir, source):
            for file in sorted(label_file(source / "image").parent.rglob("*.txt")):
                if file not in known and file.name not in NO_LABELS:
                    yield Finding("note", file, "", "has no image of the same name", "its objects are ignored")

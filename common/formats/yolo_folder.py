"""Data sets in YOLO's layout, with or without ``data.yaml``: the images of a split, and the files of their labels."""

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
from .lists import decode_text, lines_of
from .yolo import YoloLabels, YoloObject, read_label_file

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NO_LABELS = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"}  # other text files beside labels
NAME_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "images/classes.txt")
NOTHING = (None, "", "null", "~")  # values of YAML, all read as text
SPLITS = ("train", "val", "test")
OTHER_NAMES = {"val": ("valid", "validation"), "valid": ("val", "validation"), "validation": ("val", "valid")}
IMAGES, LABELS = "images", "labels"  # folders; a label's path has the second in place of the last of the first

READERS = 8  # threads that wait for files


@dataclass(frozen=True)
class YoloFolder:
    """The content of a ``data.yaml`` or, without one, of the folders themselves.

    Attributes:
        file: the ``data.yaml``, or the folder.
        root: the folder that ids of images are relative to.
        names: names of the classes, in the order of their indices.
        splits: the folders and lists with the images of each split. Without ``data.yaml`` and folders of splits there
            is one split, called "".
        findings: errors; repairs.
    """

    file: Path
    root: Path
    names: tuple[str, ...] = ()
    splits: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def read_yolo(path: Path, split: str = "", classes: Sequence[str] = (), hold_out: HoldOut | None = None) -> Coco:
    """Read a split as if it were a file in COCO's format: boxes, and polygons as masks, in pixels.

    The id of an image is its path below the data set's folder, without suffix; that of an annotation, the image's id
    and the number of the line.

    Args:
        path: ``data.yaml``, or a folder that holds it, or ``images`` and ``labels``, or images and label files.
        split: name of the split in ``data.yaml`` or of its folder, such as ``train``; empty: the only one.
        classes: names of the classes to keep, in this order; empty: all. If no file names the classes, all names in the
            order of their indices.
        hold_out: divides a data set of one part into the splits train and test.

    Returns:
        its ``findings`` have at least one for each line of a label file that is not among the annotations.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: ``classes`` has a name that no class has.
    """
    folder = open_yolo(path)
    ledger = Ledger(folder.file)
    names = folder.names or tuple(classes)
    if not names and not any(finding.severity == "error" for finding in folder.findings):
        what = f"says nowhere what the classes are called: there is neither data.yaml nor {' nor '.join(NAME_LISTS)}"
        ledger.error("", what, "write one of them, or list all classes in CLASSES, in the order of their indices")
    sources = _sources(folder, "" if hold_out else split, ledger)
    findings = [*folder.findings, *ledger.findings()]
    if any(finding.severity == "error" for finding in findings):
        return Coco(folder.file, findings=findings)
    takes = None if hold_out is None else partial(hold_out.takes, split=split)
    return choose_classes(_read_images(folder, sources, names, findings, takes), classes)


def open_yolo(path: Path) -> YoloFolder:
    """Read ``data.yaml``, or find the folders of splits and a list of classes.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    if path.is_file():
        return _described(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no data.yaml and no folder {path}")
    described = [path / name for name in DESCRIPTIONS if (path / name).is_file()]
    described = described or sorted(file for file in path.glob("*.y*ml") if b"names" in file.read_bytes())
    return _described(described[0]) if described else _bare(path)


def folder_of(file: Path) -> Path:
    """Return the folder that the file names of `read_yolo` are relative to; ``file`` as in `YoloFolder`."""
    return file if file.is_dir() else file.parent


def label_file(image: Path) -> Path:
    """Return the label file of an image: the path with ``labels`` for the last folder called ``images``."""
    parts = list(image.parent.parts)
    if IMAGES in parts:
        parts[len(parts) - 1 - parts[::-1].index(IMAGES)] = LABELS
    return Path(*parts, f"{stem_of(image.name)}.txt")


def _described(file: Path) -> YoloFolder:
    """Read ``data.yaml``."""
    ledger = Ledger(file)
    try:
        # Read all values as text: a class may be called no, or 1e3.
        content = yaml.load(decode_text(file.read_bytes()), yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        ledger.error("", f"is not YAML ({' '.join(str(error).split())})", "write path, train, val and names")
        return YoloFolder(file, file.parent, findings=tuple(ledger.findings()))
    if not isinstance(content, dict) or "names" not in content:
        found = first_few([str(key) for key in content]) if isinstance(content, dict) else brief(content)
        ledger.error("", f"lacks names, found {found}", "write names: [cat, dog]")
        return YoloFolder(file, file.parent, findings=tuple(ledger.findings()))
    if content.get("kpt_shape"):
        ledger.error("", "has kpt_shape: its label files hold keypoints", "export them in COCO's format (KIND: coco)")
    names = _names(content, ledger)
    roots = _roots(file, content.get("path"), ledger)
    splits = {}
    for split in (*SPLITS, "valid", "validation"):
        given = content.get(split)
        entries = given if isinstance(given, list) else [] if given in NOTHING else [given]
        if not all(isinstance(entry, str) for entry in entries):
            ledger.error(split, f"is {brief(given)}", "name a folder of images, a list of images, or several of them")
        elif entries:
            splits[split] = [_place(entry, roots) for entry in entries]
    if not splits and not ledger.errors:
        ledger.error("", "names no split", "write train: images/train")
    return YoloFolder(file, roots[0], names, splits, tuple(ledger.findings()))


def _names(content: Mapping[Any, Any], ledger: Ledger) -> tuple[str, ...]:
    given = content["names"]
    if isinstance(given, dict):
        if missing := [str(index) for index in range(len(given)) if str(index) not in given]:
            what = f"lacks index {missing[0]} of {len(given)} names"
            ledger.error("names", what, "number the classes 0, 1, 2, ...")
            return ()
        given = [given[str(index)] for index in range(len(given))]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        ledger.error("names", f"is {brief(given)}", "write the names of the classes: [cat, dog]")
        return ()
    names = tuple(" ".join(name.split()) for name in given)
    if same := repeated(names):
        ledger.error("names", f"has {first_few(same)} more than once", "names of classes must differ")
    if (number := content.get("nc", str(len(names)))) != str(len(names)):
        ledger.error("nc", f"is {brief(number)}, but names has {len(names)}", "correct one of them")
    return names


def _roots(file: Path, given: object, ledger: Ledger) -> list[Path]:
    """Return the folders that splits may be relative to, the likeliest first."""
    beside = file.parent
    if given in NOTHING:
        return [beside]
    if not isinstance(given, str):
        ledger.error("path", f"is {brief(given)}", "name the folder of the data set, or leave it out")
        return [beside]
    found = [folder for folder in (beside / given, Path(given)) if _is(Path.is_dir, folder)]
    if not found:
        ledger.count("repaired", f"path {given}", "does not exist", f"the folder of {file.name} is taken instead")
    return [*found, beside]


def _place(entry: str, roots: Sequence[Path]) -> Path:
    """Find the folder or the list of an entry of a split."""
    # Roboflow writes ../train/images for a folder beside data.yaml.
    entries = (entry, entry[3:]) if entry.startswith("../") else (entry,)
    places = [root / one for root in roots for one in entries]
    return next((place for place in places if _is(Path.exists, place)), places[0])


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    """Test a path that may be invalid, such as too long or with a zero byte."""
    try:
        return what(path)
    except (OSError, ValueError):
        return False


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
                ledger.error(file.name, f"is not text in UTF-8 ({error.reason})", "rewrite it, one class per line")
            if same := repeated(names):
                ledger.error(file.name, f"has {first_few(same)} more than once", "names of classes must differ")
    return YoloFolder(folder, folder, names, splits, tuple(ledger.findings()))


def _sources(folder: YoloFolder, split: str, ledger: Ledger) -> Sequence[Path]:
    """Return the folders and lists of a split; enter an error if there is no such split."""
    known = folder.splits
    if not split and len(known) == 1:
        split = next(iter(known))
    called = next((name for name in (split, *OTHER_NAMES.get(split, ())) if name in known), None)
    if called is not None:
        return known[called]
    if known:
        what = f"has the splits {', '.join(known)}; SPLIT is {split or 'not given'}"
        ledger.error("", what, f"name one of them in SPLIT{did_you_mean(split, known) if split else ''}")
    return []


@dataclass(frozen=True)
class _Read:
    """An image as read: its size, None if it cannot be read; its labels; their file, None if there is none.

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
    """Read the chosen images of ``sources``, and their labels; ``findings`` are those so far."""
    ledger = Ledger(folder.file)
    everything = _find_images(folder, sources, ledger)
    files = everything if takes is None else {name: file for name, file in everything.items() if takes(name)}
    if everything and not files:
        what = f"has {len(everything):,} images, none of which HOLD_OUT takes for this split"
        ledger.error("", what, "set HOLD_OUT_SEED to another number, or label more images")
    with ThreadPoolExecutor(READERS) as pool:
        read = dict(zip(files, pool.map(partial(_read_image, num_classes=len(names)), files.values()), strict=True))
    images, annotations = [], []
    for identity, one in read.items():
        if one.file is None:
            ledger.count("note", identity, "has no label file", "taken as an image without objects")
        if one.size is not None:
            size = {"width": one.size[0], "height": one.size[1]}
            images.append({"id": identity, "file_name": _file_name(files[identity], folder_of(folder.file)), **size})
            annotations += [_annotation(identity, labelled) for labelled in one.labels.objects]
    label_files = {one.file for one in read.values() if one.file is not None}
    if files and not label_files:
        looked_for = label_file(next(iter(files.values())))
        ledger.error("", f"has no label file for any of its {len(files):,} images, such as {looked_for}", "write them")
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
    """Return the path of an image below a folder; if it is elsewhere, its absolute path."""
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image.absolute())


def _find_images(folder: YoloFolder, sources: Sequence[Path], ledger: Ledger) -> dict[str, Path]:
    """Find the images of folders and lists by their ids, the paths below the root without suffix."""
    files: dict[str, Path] = {}
    for source in sources:
        for image in _images_of(source, folder.root, ledger):
            identity = os.path.relpath(image.parent / stem_of(image.name), folder.root).replace(os.sep, "/")
            if files.setdefault(identity, image) != image:
                what = f"share the labels {label_file(image).name} and differ in nothing but their suffix"
                ledger.error(first_few([files[identity].name, image.name]), what, "remove all but one")
    if not files and not ledger.errors:
        where = first_few([str(source) for source in sources])
        ledger.error("", f"has no image (.jpg, .png, ...) in {where}: the data set is empty", "name where images are")
    return files


def _images_of(source: Path, root: Path, ledger: Ledger) -> Iterator[Path]:
    """List the images below a folder, or those that a list names."""
    if _is(Path.is_dir, source):
        for folder, below, names in os.walk(source, followlinks=True):
            below.sort()
            for name in sorted(names):
                if name.lower().endswith(image_suffixes()) and not name.startswith("."):
                    yield Path(folder, name)
        return
    try:
        lines = lines_of(source.read_bytes())
    except UnicodeDecodeError as error:
        ledger.error(str(source), f"is not text in UTF-8 ({error.reason})", "rewrite it, one image per line")
        return
    except (OSError, ValueError) as error:  # an entry of a file may be an impossible path
        reason = getattr(error, "strerror", None) or error
        ledger.error(str(source), f"is named by the split and cannot be read ({reason})", "correct the path")
        return
    for line in repeated(lines):
        ledger.count("repaired", f"{source.name}: {line}", "is named more than once", "taken once")
    for line in dict.fromkeys(lines):
        image = _listed(line, (source.parent, root))
        if image is None:
            ledger.error(f"{source.name}: {line[:200]}", "does not exist", "restore it, or remove it from the list")
        else:
            yield image


def _listed(line: str, folders: Sequence[Path]) -> Path | None:
    """Find the image of a line of a list: its path, or the path with ever fewer folders, below ours."""
    text = line.replace("\\", "/")
    while text and text.lower().endswith(image_suffixes()):
        for folder in folders:
            if _is(Path.is_file, folder / text):
                return Path(os.path.normpath(folder / text))
        text = text.partition("/")[2]
    return None


def _read_image(image: Path, num_classes: int) -> _Read:
    path = label_file(image)
    if not path.is_file() and image.with_name(path.name).is_file():
        path = image.with_name(path.name)  # both in one folder, below a folder that happens to be called images
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
        unread = Finding("error", path, "", f"cannot be read ({error.strerror})", "write or fetch it again")
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
    """Note what prevents the training of masks."""
    boxes = [one for one in annotations if "segmentation" not in one]
    for one in boxes if len(boxes) < len(annotations) else ():
        ledger.count("note", one["id"], "has a box, where others have a polygon", "it serves with MODEL.MASK_ON False")


def _without_image(sources: Sequence[Path], known: Collection[Path]) -> Iterator[Finding]:
    """Note label files without an image in the folders that should have it."""
    for source in sources:
        if _is(Path.is_dir, source):
            for file in sorted(label_file(source / "image").parent.rglob("*.txt")):
                if file not in known and file.name not in NO_LABELS:
                    yield Finding("note", file, "", "has no image of its name", "its objects are lost")

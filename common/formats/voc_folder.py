"""Reader for folders of images and VOC XML files: looks up files by name, lists images of a split, and reads splits."""

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mocodet.common.text import first_few

from .findings import Finding, Ledger
from .hold_out import HoldOut
from .image import Size, image_size, image_suffixes, size_fault, stem_of
from .lists import NamedFiles, read_list
from .voc import VocAnnotation, read_annotation

# Names of the folders of XML files and of images, in VOC and in other tools. Otherwise both are in one folder.
ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
XML = ".xml"


@dataclass(frozen=True)
class VocImage:
    """An image in a split.

    Attributes:
        name: the image's name in lists, without suffix.
        image: the image file; None if there is none.
        annotation: contents of the image's XML file.
    """

    name: str
    image: Path | None
    annotation: VocAnnotation


@dataclass(frozen=True)
class VocSplit:
    """The images in a list.

    Attributes:
        images: images in the order of the list, with the objects of the requested classes.
        findings: findings in the list, the XML files and the images.
        listed: the list or, without one, the folder of the XML files.
        left_out: number of objects of each other class, by class name.
    """

    images: Sequence[VocImage]
    findings: Sequence[Finding]
    listed: Path
    left_out: Mapping[str, int] = field(default_factory=Counter)


class VocFolder:
    """A folder with ``Annotations`` and ``JPEGImages``, or with XML files and images side by side; each is listed once.

    Only ``Annotations`` and ``JPEGImages`` may have subfolders: ``Annotations/s1/a.xml`` and ``JPEGImages/s1/a.jpg``
    have the name ``s1/a``.

    Args:
        root: the folder; any part of its layout may be missing.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = Path(root)
        self.images = self._files(IMAGES, image_suffixes())
        self.annotations = self._files(ANNOTATIONS, (XML,))
        self._filenames: dict[str, str] = {}  # <filename> in the XML files that were read, by name

    def _files(self, folders: Sequence[str], suffixes: tuple[str, ...]) -> NamedFiles:
        """Return the files in the first existing folder of ``folders``, or else in the first folder with such files."""
        if named := [self.root / name for name in folders if (self.root / name).is_dir()]:
            return NamedFiles(named[0], suffixes, nested=True)
        others = (NamedFiles(self.root / name, suffixes) for name in (*ANNOTATIONS, *IMAGES, "."))
        return next((files for files in others if files.names()), NamedFiles(self.root / folders[0], suffixes))

    @property
    def absent(self) -> list[Path]:
        """The missing folders that are required for reading."""
        return [files.root for files in (self.annotations, self.images) if not files.root.is_dir()]

    def list_file(self, split: str) -> Path:
        """Return the path of VOC's image list for a split such as ``Main/train``."""
        return self.root / "ImageSets" / f"{split}.txt"

    def find_names(self, split: str, hold_out: HoldOut | None = None) -> tuple[list[str], list[Finding], Path]:
        """Return the names of the images in a split.

        Args:
            split: name of a list in ``ImageSets/Main``, or the path of a list of images.
            hold_out: how to select from all images that have an XML file.

        Returns:
            the names; the findings about the list; and the list or, without one, the folder of the XML files.

        Raises:
            FileNotFoundError: the list does not exist; the message names the existing lists.
        """
        if hold_out is not None:
            return self._held_out(split, hold_out)
        usual = self.list_file(f"Main/{split}")
        path = next((path for path in (usual, self.root / split, Path(split).expanduser()) if path.is_file()), None)
        if path is not None:
            return *read_list(path, self.knows), path
        known = ", ".join(sorted(file.stem for file in usual.parent.glob("*.txt"))) or "none"
        remedy = "set SPLIT to the path of a list of images, or set HOLD_OUT 0.2 and SPLIT train or test"
        raise FileNotFoundError(f"split {usual} does not exist; available splits: {known}; {remedy}")

    def _held_out(self, split: str, hold_out: HoldOut) -> tuple[list[str], list[Finding], Path]:
        folder, known = self.annotations.root, sorted(self.labelled)
        names = [name for name in known if hold_out.takes(name, split)]
        if not known:
            return [], [self.no_annotations()], folder
        ledger = Ledger(folder)
        if not names:
            what = f"has {len(known):,} XML files, but HOLD_OUT {hold_out.share:g} selects none of them for {split}"
            ledger.error("", what, "change HOLD_OUT_SEED, or label more images")
        return names, ledger.findings(), folder

    @cached_property
    def labelled(self) -> set[str]:
        """The names of the XML files, except those in subfolders without any of their images, such as backups.

        If there are no other XML files, these are the names of all of them.
        """
        names = self.annotations.names()
        used = {"", *(_parent(name) for name in names if "/" in name and self.images.find(name))}
        return {name for name in names if _parent(name) in used} or names

    def no_annotations(self) -> Finding:
        """Return the error that there are no XML files."""
        remedy = "add one for each labelled image, or remove this folder if they are in the folder of the images"
        return Finding("error", self.annotations.root, "", "has no XML files", remedy)

    def image_of(self, name: str) -> Path | None:
        """Return the image of an XML file, which is read only if its name does not determine the image."""
        candidates = self.images.find(name)
        if len(candidates) != 1 and name not in self._filenames:
            self._filenames[name] = read_annotation(self.annotation_file(name)).filename
        return self._choose(candidates, self._filenames.get(name, ""), name)

    def shared_images(self, names: Iterable[str]) -> list[Finding]:
        """Return an error for each image that belongs to several of the XML files with the given names."""
        files: dict[Path, set[str]] = {}
        for name in names:
            for file in self.annotations.find(name)[:1]:
                if (image := self.image_of(name)) is not None:
                    files.setdefault(image, set()).add(file.relative_to(self.annotations.root).as_posix())
        ledger = Ledger(self.annotations.root)
        for image, of_image in files.items():
            if len(of_image) > 1:
                what = f"share the image {image.name}"
                ledger.error(first_few(sorted(of_image)), what, "merge their objects into one file")
        return ledger.findings()

    def other_images(self, names: Collection[str]) -> set[str]:
        """Return the names of the images that do not belong to any of the XML files with the given names."""
        chosen = filter(None, map(self.image_of, names))
        own = {stem_of(image.relative_to(self.images.root).as_posix()) for image in chosen}
        return self.images.names() - own - set(names)

    def annotation_file(self, name: str) -> Path:
        """Return the path at which an image's XML file exists or is expected."""
        return next(iter(self.annotations.find(name)), self.annotations.root / f"{name}.xml")

    def knows(self, name: str) -> bool:
        """Return whether an image or an XML file with the given name exists."""
        return bool(self.images.find(name) or self.annotations.find(name))

    def read_image(self, name: str, listed: Path) -> tuple[VocImage, list[Finding]]:
        """Find the files of an image that is in the list ``listed``, and read its XML file."""
        ledger = Ledger(self.annotation_file(name))
        candidates = self.images.find(name)

        def size_of_image(filename: str) -> Size | None:
            chosen = self._choose(candidates, filename, name)
            try:
                return None if chosen is None else image_size(chosen)
            except (OSError, ValueError):
                return None  # reported by `measure`

        try:
            annotation = read_annotation(ledger.file, size_of_image)
        except FileNotFoundError:
            annotation = VocAnnotation()
            remedy = (
                f"restore it, create one without <object> if the image has no objects, or remove {name} from the list"
            )
            ledger.error("", f"is missing, but {listed} lists its image", remedy)
        self._filenames[name] = annotation.filename
        chosen = self._choose(candidates, annotation.filename, name)
        if chosen is None and candidates:
            files = ", ".join(path.name for path in candidates)
            ledger.error("", f"may refer to {files}", "remove all but one, or specify the right one in <filename>")
        return VocImage(name, chosen, annotation), [*annotation.findings, *ledger.findings()]

    def _choose(self, candidates: Sequence[Path], filename: str, name: str) -> Path | None:
        """Choose from the images with a name; <filename> in the XML file decides only if the name is ambiguous."""
        if len(candidates) == 1:
            return candidates[0]
        said = filename.replace("\\", "/").rpartition("/")[2]
        if not candidates and said:
            other = self.images.find(name[: -len(name.rpartition("/")[2])] + stem_of(said))
            candidates = [path for path in other if path.name == said] or other[:1]
            return candidates[0] if len(candidates) == 1 else None
        return next((path for path in candidates if path.name == said), None)


def read_split(
    folder: VocFolder, split: str, classes: Collection[str] | None = None, hold_out: HoldOut | None = None
) -> VocSplit:
    """Read the XML files for the images in a split, and the sizes of images whose XML file specifies none.

    Args:
        folder: the folder.
        split: see `VocFolder.find_names`.
        classes: classes of the objects to keep; None keeps all.
        hold_out: see `VocFolder.find_names`.

    Raises:
        FileNotFoundError: the list does not exist; the message names the existing lists.
    """
    names, findings, listed = folder.find_names(split, hold_out)
    read = [folder.read_image(name, listed) for name in names]
    findings += [finding for _, found in read for finding in found]
    # One split may contain only one of several XML files that share an image.
    findings += folder.shared_images(names if hold_out is None else sorted(folder.labelled))
    if hold_out is not None:
        findings += _unlabelled(folder)
    images = [image for image, _ in read]
    findings += fraction_findings(images, folder.annotations.root)
    return choose_classes(images, findings, listed, classes)


def _unlabelled(folder: VocFolder) -> list[Finding]:
    ledger = Ledger(folder.annotations.root)
    for name in sorted(folder.other_images(folder.labelled)):
        ledger.count("note", name, "has an image but no XML file", "ignored, but usable for pre-training")
    return ledger.findings()


def fraction_findings(images: Iterable[VocImage], annotations: Path) -> list[Finding]:
    """Return an error about the folder ``annotations`` if all boxes seem to be fractions of the image's size."""
    larger = [image.annotation for image in images if max(image.annotation.size or (0,)) > 1]
    greatest = max((max(one.box) for annotation in larger for one in annotation.objects), default=math.inf)
    if greatest > 1:
        return []
    what = "has boxes that seem to be fractions of the image's size; VOC's coordinates are in pixels"
    return [Finding("error", annotations, "", what, "multiply them by the image's width and height")]


def choose_classes(
    images: Iterable[VocImage], findings: Sequence[Finding], listed: Path, classes: Collection[str] | None
) -> VocSplit:
    """Keep the objects of some classes and count the others; see `read_split` and `VocSplit` for the arguments."""
    left_out: Counter[str] = Counter()
    chosen = []
    for image in images:
        kept = image.annotation.objects
        if classes is not None:
            left_out.update(one.name for one in kept if one.name not in classes)
            kept = tuple(one for one in kept if one.name in classes)
        chosen.append(replace(image, annotation=replace(image.annotation, objects=kept)))
    return VocSplit(chosen, findings, listed, left_out)


def missing_image(folder: VocFolder, image: VocImage, listed: Path) -> Finding | None:
    """Return an error if the file of an image in the list ``listed`` does not exist."""
    if image.image is not None or folder.images.find(image.name):
        return None
    what = f"is missing with any image suffix, but {listed} lists it"
    remedy = f"restore the image, or remove {image.name} from the list"
    return Finding("error", folder.images.root / image.name, "", what, remedy)


def measure(image: VocImage) -> Finding | None:
    """Read an image's size from its header; return an error if it cannot be read or is wrong."""
    if image.image is None:
        return None
    try:
        found = image_size(image.image)
    except (OSError, ValueError) as error:
        return Finding("error", image.image, "", str(error).removeprefix(f"{image.image} "), "")
    said = image.annotation.size
    return None if said in (None, found) else size_fault(image.image, found, said, "its annotation")


def class_findings(split: VocSplit, classes: Sequence[str]) -> Iterator[Finding]:
    """Compare the objects in a split with the requested ``classes``."""
    path = split.listed
    kept = Counter(one.name for image in split.images for one in image.annotation.objects)
    if not split.left_out:
        return
    others = first_few([f"{name} ({count:,})" for name, count in Counter(split.left_out).most_common()])
    written = {_plain(name): name for name in split.left_out}
    for name in classes:
        if not kept[name] and _plain(name) in written:
            what = f"has no objects of class {name!r}, but objects of class {written[_plain(name)]!r}"
            yield Finding("error", path, "", what, "spell the class in CLASSES as in the annotations")
            return
    if not kept:
        what = f"has no objects of the classes {first_few(classes)}; its objects are {others}"
        yield Finding("error", path, "", what, "set CLASSES to classes of these objects")
        return
    what = f"has {sum(split.left_out.values()):,} objects of classes that are not in CLASSES: {others}"
    yield Finding("note", path, "", what, "they are ignored")


def _parent(name: str) -> str:
    """Return the folder in a name: ``s1`` for ``s1/a``, and an empty text for ``a``."""
    return name.rpartition("/")[0]


def _plain(name: str) -> str:
    """Return a class name without differences in case, spaces, hyphens and underscores, which are easily confused."""
    return re.sub(r"[\s_-]", "", name.casefold())
